#!/usr/bin/env python3
"""What a GPU reaches at most, through PyTorch: matmuls at our models' shapes as they are and padded to multiples of 8, a large one, a copy.

    python tools/gpu_ceilings.py            needs torch and a GPU; some ten seconds

fwd is x W^T, dx is dy W, dw is dy^T x, all bf16 on random data; TFLOP/s from CUDA events over 20 calls.
"""
import torch


def seconds(work, calls=20):
    for _ in range(3):
        work()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / calls * 1e-3


def random(rows, cols):
    return torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16)


def products(rows, inner, outer):
    x, w, dy = random(rows, inner), random(outer, inner), random(rows, outer)
    works = {"fwd": lambda: x @ w.T, "dx": lambda: dy @ w, "dw": lambda: dy.T @ x}
    rates = (f"{name} {2 * rows * inner * outer / seconds(work) / 1e12:.0f}" for name, work in works.items())
    print(f"{rows} rows, {inner} -> {outer}: {', '.join(rates)} TFLOP/s", flush=True)


def main():
    print(torch.cuda.get_device_name(), torch.__version__)
    for inner, outer in [(410, 1230), (416, 1248), (410, 410), (416, 416), (410, 2100), (416, 2112), (2100, 410), (2112, 416),
                         (768, 2304), (768, 3072)]:
        products(32768, inner, outer)
    for inner, outer in [(410, 28996), (416, 28996), (416, 29056), (768, 50257), (768, 50304)]:
        products(4096, inner, outer)
    a = random(8192, 8192)
    print(f"8192 cubed: {2 * 8192**3 / seconds(lambda: a @ a) / 1e12:.0f} TFLOP/s")
    b = torch.empty(1 << 30, device="cuda")
    c = torch.empty_like(b)
    print(f"copy: {8 * (1 << 30) / seconds(lambda: c.copy_(b), 5) / 1e12:.2f} TB/s, read and written")


if __name__ == "__main__":
    main()
