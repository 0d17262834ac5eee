// The seam between launches and the blocks they run.
//
// Owns: declarations. Never: behaviour.

#pragma once

#include <numeric>

#include "emulator.h"

namespace emu {

constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned STATIC_SHARED = 48 * 1024, MOST_SHARED = 227 * 1024;

// What stopped a launch; no code when nothing did.
struct Trouble {
    int code = SUCCESS;
    std::string text;
};

struct Grid {
    Dim3 grid, block;
    unsigned dynamic_bytes;
    uint64_t turn;  // of this launch: orders differ with it
};

// A permutation of 0..n that differs from turn to turn: i -> (i * step + start) mod n.
struct Order {
    uint64_t n, step, start;
    Order(uint64_t count, uint64_t turn) : n(count) {
        uint64_t x = (turn + 1) * 0x9e3779b97f4a7c15ull;
        start = (x >> 33) % n;
        step = 1 + (x >> 7) % n;
        while (std::gcd(step, n) != 1) step++;
    }
    uint64_t at(uint64_t i) const { return (i % n * step + start) % n; }
};

// Runs the blocks that `next` names, until it names none below their count, in one of the emulator's workers.
Trouble run_blocks(size_t worker, const ModuleInfo &module, const KernelInfo &kernel, void **arguments, const Grid &grid,
                   const std::function<uint64_t()> &next);
// Makes the workers below this number, which is not done while they run.
void make_workers(size_t count);

}  // namespace emu
