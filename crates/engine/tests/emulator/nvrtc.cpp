// The emulated NVRTC, `libnvrtc.so`: compiles kernels for this processor. What it calls a cubin is a shared library,
// which only the emulated driver loads.
//
// Owns: options, the rewriting of kernels into C++, the cache of compiled libraries beside this one. Never: runs them.

#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "abi.h"

namespace {

enum { OK = 0, ERROR_INVALID_INPUT = 3, ERROR_INVALID_OPTION = 5, ERROR_COMPILATION = 6, ERROR_INTERNAL = 11 };

struct Program {
    std::string source, name, log, cubin;
};

std::string read_file(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// The folder of this library.
std::string folder() {
    Dl_info info;
    dladdr(reinterpret_cast<void *>(&folder), &info);
    std::string path = info.dli_fname;
    return path.substr(0, path.rfind('/'));
}

uint64_t hash(const std::string &text) {
    uint64_t h = 0xcbf29ce484222325ull;
    for (unsigned char c : text) h = (h ^ c) * 0x100000001b3ull;
    return h;
}

std::string quoted(const std::string &text) { return "'" + text + "'"; }

// Comments become spaces, so that nothing is found in them; lines stay where they are.
std::string without_comments(const std::string &source) {
    std::string text = source;
    for (size_t i = 0; i + 1 < text.size(); i++) {
        bool line = text[i] == '/' && text[i + 1] == '/', block = text[i] == '/' && text[i + 1] == '*';
        if (!line && !block) continue;
        size_t end = text.find(line ? "\n" : "*/", i);
        if (end == std::string::npos) end = text.size();
        else if (block) end += 2;
        for (size_t j = i; j < end; j++) {
            if (text[j] != '\n') text[j] = ' ';
        }
        i = end - 1;
    }
    return text;
}

struct Kernel {
    std::string name, bounds;
};

// `__global__ [__launch_bounds__(n)] void name(`, in either order.
std::vector<Kernel> kernels_of(const std::string &text) {
    static const std::regex pattern(R"(__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\(\s*([^,()]+)[^()]*\)\s*)?(?:void\s+)?(\w+)\s*\()");
    std::vector<Kernel> found;
    for (std::sregex_iterator i(text.begin(), text.end(), pattern), end; i != end; ++i) {
        found.push_back({(*i)[2], (*i)[1].matched ? (*i)[1].str() : "1024"});
    }
    return found;
}

// The source with a frame around it: the language before, a table of the kernels after. All of it in an unnamed
// namespace, so that nothing of it meets another module's.
std::string framed(const Program &program) {
    std::string text = without_comments(program.source);
    static const std::regex dynamic(R"(extern\s+__shared__\s+((?:__align__\s*\(\s*\d+\s*\)\s*)?)([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;)");
    std::string body = std::regex_replace(text, dynamic, "$2 *const $3 = ($2 *)emulator::calls.dynamic_shared();");
    std::ostringstream out;
    out << "#include \"device.h\"\nnamespace {\n#line 1 \"" << program.name << "\"\n" << body << "\n}\n";
    out << "static const emulator::Kernel emulator_kernels[] = {\n";
    auto kernels = kernels_of(text);
    for (auto &kernel : kernels) {
        out << "    emulator::describe<" << kernel.name << ">(\"" << kernel.name << "\", " << kernel.bounds << "),\n";
    }
    out << "};\nextern \"C\" __attribute__((visibility(\"default\"))) const emulator::Module emulator_module = {" << MODULE_ABI << ", "
        << kernels.size() << ", emulator_kernels, &emulator::calls, &emulator::current, &emulator::block_size, &emulator::grid_size, "
        << "__start_emulator_shared, __stop_emulator_shared};\n";
    return out.str();
}

int compile(Program &program, bool fused) {
    std::string text = framed(program);
    // What runs the tests may not be what compiled them: ask for these instructions only where they are there.
    bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const char *compiler = getenv("CXX") ? getenv("CXX") : "g++";
    std::string flags = std::string("-std=c++17 -O2 -shared -fPIC -fvisibility=hidden -fno-exceptions -fno-rtti -fno-math-errno ") +
                        "-fno-strict-aliasing -w -Werror=return-type " + (fma ? "-mavx2 -mfma " : "") + (fused ? "-ffp-contract=fast" : "-ffp-contract=off");
    std::string shim = read_file(SOURCES "/device.h") + read_file(SOURCES "/abi_device.h");
    char key[32];
    snprintf(key, sizeof key, "%016llx", (unsigned long long)hash(shim + flags + compiler + text));
    std::string stem = folder() + "/kernels-" + key, own = stem + "-" + std::to_string(gettid());
    program.cubin = read_file(stem + ".so");
    if (!program.cubin.empty()) return OK;
    std::ofstream(own + ".cpp") << text;
    std::string call = std::string(compiler) + " " + flags + " -I" + quoted(SOURCES) + " " + quoted(own + ".cpp") + " -o " +
                       quoted(own + ".so") + " > " + quoted(own + ".log") + " 2>&1";
    bool failed = std::system(call.c_str()) != 0;
    program.log += read_file(own + ".log");
    if (!failed) program.cubin = read_file(own + ".so");
    // Whole or not at all, also when several threads or processes compile the same.
    if (!failed) rename((own + ".so").c_str(), (stem + ".so").c_str());
    for (const char *ending : {".cpp", ".so", ".log"}) unlink((own + ending).c_str());
    return failed ? ERROR_COMPILATION : program.cubin.empty() ? ERROR_INTERNAL : OK;
}

int give(const std::string &from, char *to, bool zero) {
    memcpy(to, from.data(), from.size());
    if (zero) to[from.size()] = 0;
    return OK;
}

}  // namespace

// A version that no real one has, so that nothing cached for one is taken for the other.
EXPORT int nvrtcVersion(int *major, int *minor) { *major = 13; *minor = 999; return OK; }
EXPORT const char *nvrtcGetErrorString(int code) { return code == OK ? "NVRTC_SUCCESS" : "NVRTC_ERROR (emulated)"; }
EXPORT int nvrtcGetNumSupportedArchs(int *count) { *count = 3; return OK; }
EXPORT int nvrtcGetSupportedArchs(int *archs) { archs[0] = 80; archs[1] = 89; archs[2] = 90; return OK; }

EXPORT int nvrtcCreateProgram(Program **program, const char *source, const char *name, int headers, const char *const *, const char *const *) {
    if (!source || headers != 0) return ERROR_INVALID_INPUT;
    *program = new Program{source, name ? name : "default_program", "", ""};
    return OK;
}

EXPORT int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    bool fused = true, cubin = false;
    static const std::regex arch(R"((--gpu-architecture=|-arch=)(sm|compute)_(80|86|89|90|90a))");
    for (int i = 0; i < count; i++) {
        std::string option = options[i];
        std::smatch match;
        if (std::regex_match(option, match, arch)) {
            cubin = match[2] == "sm";
        } else if (option == "--fmad=false" || option == "-fmad=false") {
            fused = false;
        } else if (option != "--fmad=true" && option != "-fmad=true" && option != "--std=c++17" && option != "-std=c++17" &&
                   option != "-default-device" && option != "--device-as-default-execution-space" && option != "--restrict" &&
                   option != "-lineinfo" && option != "--generate-line-info") {
            program->log = "option `" + option + "` is not emulated";
            return ERROR_INVALID_OPTION;
        }
    }
    if (std::regex_search(without_comments(program->source), std::regex(R"(#\s*include)"))) {
        program->log = program->name + ": there are no headers to include";
        return ERROR_COMPILATION;
    }
    int code = compile(*program, fused);
    // As the real one: no machine code for a virtual architecture.
    if (!cubin) program->cubin.clear();
    return code;
}

EXPORT int nvrtcGetProgramLogSize(Program *program, size_t *bytes) { *bytes = program->log.size() + 1; return OK; }
EXPORT int nvrtcGetProgramLog(Program *program, char *log) { return give(program->log, log, true); }
EXPORT int nvrtcGetCUBINSize(Program *program, size_t *bytes) { *bytes = program->cubin.size(); return OK; }
EXPORT int nvrtcGetCUBIN(Program *program, char *cubin) { return give(program->cubin, cubin, false); }
EXPORT int nvrtcGetPTXSize(Program *, size_t *bytes) { *bytes = 1; return OK; }
EXPORT int nvrtcGetPTX(Program *, char *ptx) { *ptx = 0; return OK; }
EXPORT int nvrtcDestroyProgram(Program **program) { delete *program; *program = nullptr; return OK; }
