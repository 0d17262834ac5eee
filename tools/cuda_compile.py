#!/usr/bin/env python3
"""Compiles every CUDA kernel with NVIDIA's compiler, without a GPU, and shows what each takes of one.

    python3 -m venv target/cuda-compiler && target/cuda-compiler/bin/pip install nvidia-cuda-nvrtc==13.0.88
    target/cuda-compiler/bin/python tools/cuda_compile.py
    target/cuda-compiler/bin/python tools/cuda_compile.py --archs sm_90a --library libnvrtc.so.13 --cubins out
    target/cuda-compiler/bin/python tools/cuda_compile.py --archs sm_90a --cache ~/.cache/headstart/kernels

The sources are put together as crates/engine/src/cuda/kernels.rs does it. Per kernel and architecture: registers,
bytes that did not fit into registers (spills), static shared memory; from the assembler's own report. The compiler's
time is there too, as first use pays it once. --cache writes the files that the program would write there after compiling,
so that its first use on a GPU of that architecture, with this version of NVRTC, finds them. Exit code 1 if anything does not compile. Needs the standard library and
libnvrtc (from that wheel, or --library). Never needed to build or use Headstart.
"""
import argparse, ctypes, hashlib, pathlib, struct, re, sys, sysconfig, time

KERNELS = pathlib.Path(__file__).resolve().parent.parent / "crates/engine/src/cuda/kernels"
ARCHS = ["sm_80", "sm_89", "sm_90a"]
# As crates/engine/src/cuda/cache.rs asks for them; a report; nothing about the parts of common.cuh that a file leaves.
OPTIONS = ["--std=c++17"]
REPORT = ["--ptxas-options=-v", "--diag-suppress=177"]


def library(path):
    """NVRTC: the given file, or the one of the wheel in this Python environment."""
    if path is None:
        packages = pathlib.Path(sysconfig.get_paths()["purelib"])
        found = sorted(packages.glob("nvidia/**/libnvrtc.so.*"))
        if not found:
            sys.exit("no libnvrtc in this Python environment: pip install nvidia-cuda-nvrtc==13.0.88, or use --library")
        path = found[-1]
    # The compiler opens these by bare name; in a wheel they lie beside it, where the system does not look.
    for builtins in sorted(pathlib.Path(path).parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins))
    return ctypes.CDLL(str(path))


class Compiler:
    def __init__(self, path):
        self.nvrtc = library(path)
        self.nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(self, code, call):
        if code != 0:
            raise RuntimeError(f"{call}: {self.nvrtc.nvrtcGetErrorString(code).decode()}")

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.check(self.nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        return major.value, minor.value

    def text(self, program, what):
        """nvrtcGetProgramLog or nvrtcGetCUBIN: the size, then the bytes."""
        size = ctypes.c_size_t()
        self.check(getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), what)
        room = ctypes.create_string_buffer(size.value + 1)
        self.check(getattr(self.nvrtc, f"nvrtcGet{what}")(program, room), what)
        return room.raw[:size.value]

    def compile(self, source, name, arch):
        """(cubin or None, log, seconds)"""
        program = ctypes.c_void_p()
        made = self.nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        self.check(made, "nvrtcCreateProgram")
        options = [option.encode() for option in [f"--gpu-architecture={arch}", *OPTIONS, *REPORT]]
        start = time.perf_counter()
        code = self.nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        seconds = time.perf_counter() - start
        log = self.text(program, "ProgramLog").rstrip(b"\0").decode()
        cubin = self.text(program, "CUBIN") if code == 0 else None
        self.nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return cubin, log, seconds


def modules():
    """(name, text) of each module: a file, or one of the widths that a file is compiled for."""
    for path in sorted(KERNELS.glob("*.cu")):
        text = path.read_text()
        if path.stem == "attention_bf16":
            for steps in range(1, 9):
                yield f"{path.stem}_{16 * steps}", f"#define STEPS {steps}\n{text}"
        elif path.stem == "norm_backward":
            for pairs in (4, 6, 7, 8, 12, 16):
                yield f"{path.stem}_{64 * pairs}", f"#define PAIRS {pairs}\n{text}"
        else:
            yield path.stem, text


def source_of(name, text):
    return f'{(KERNELS / "common.cuh").read_text()}\n#line 1 "{name}.cu"\n{text}'


def kernels_of(text):
    """The names that the source declares as kernels."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
    return re.findall(r"__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\([^()]*\)\s*)?(?:void\s+)?(\w+)\s*\(", text)


def usage(log):
    """kernel -> (registers, bytes of spills, bytes of static shared memory), from the assembler's report."""
    found, name, spilled = {}, None, 0
    for line in log.splitlines():
        if match := re.search(r"(?:Compiling entry function|Function properties for) '?(\w+)'?", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(match[1]) + int(match[2])
        elif (match := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = int(match[1]), spilled, int(shared[1]) if shared else 0
            spilled = 0
    return found


def keep(folder, source, name, arch, version, cubin):
    """Writes a file of the program's kernel cache: names and layout as crates/engine/src/cuda/cache.rs has them."""
    mark = b"HSCUBIN1"
    options = b"".join(option.encode() + b"\0" for option in [f"--gpu-architecture={arch}", *OPTIONS])
    key = hashlib.sha256(mark + struct.pack("<ii", *version) + options + source.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{key}.cubin").write_bytes(mark + hashlib.sha256(cubin).digest() + cubin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--library", help="path of libnvrtc; default: the wheel's")
    parser.add_argument("--cubins", type=pathlib.Path, help="a folder to write the machine code to")
    parser.add_argument("--cache", type=pathlib.Path, help="a kernel cache to write the machine code to")
    flags = parser.parse_args()
    compiler = Compiler(flags.library)
    print(f"NVRTC {'.'.join(map(str, compiler.version()))}: registers / spilled bytes / static shared bytes\n")
    rows, failed, seconds, files = {}, False, dict.fromkeys(flags.archs, 0.0), list(modules())
    for module, text in files:
        for name in kernels_of(text):
            rows[module, name] = {}
        for arch in flags.archs:
            cubin, log, took = compiler.compile(source_of(module, text), f"{module}.cu", arch)
            seconds[arch] += took
            if cubin is None:
                failed = True
                print(f"{module} for {arch} does not compile:\n{log}", file=sys.stderr)
                continue
            for line in log.splitlines():
                if "warning" in line.lower():
                    print(f"{arch}: {line}", file=sys.stderr)
            found = usage(log)
            for name in kernels_of(text):
                rows[module, name][arch] = found.get(name)
                # Without extern "C", the name would be another one.
                if name.encode() not in cubin or name not in found:
                    failed = True
                    print(f"{module} for {arch}: no kernel {name} in the result", file=sys.stderr)
            if flags.cubins:
                flags.cubins.mkdir(parents=True, exist_ok=True)
                (flags.cubins / f"{module}.{arch}.cubin").write_bytes(cubin)
            if flags.cache:
                keep(flags.cache, source_of(module, text), module, arch, compiler.version(), cubin)
    width = max((len(f"{file} {name}") for file, name in rows), default=6)
    print(f"| {'kernel':{width}} | " + " | ".join(f"{arch:>16}" for arch in flags.archs) + " |")
    print(f"|{'-' * (width + 2)}|" + f"{'-' * 17}:|" * len(flags.archs))
    for (file, name), by_arch in rows.items():
        cells = [" / ".join(map(str, by_arch[arch])) if by_arch.get(arch) else "-" for arch in flags.archs]
        print(f"| {f'{file} {name}':{width}} | " + " | ".join(f"{cell:>16}" for cell in cells) + " |")
    print("\n" + ", ".join(f"{arch}: {len(files)} modules in {s:.1f} s" for arch, s in seconds.items()))
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
