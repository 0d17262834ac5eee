// The part of NVIDIA's binary interface that the engine calls: names, numbers and layouts as the libraries have them.
//
// Owns: declarations shared by the emulated libraries. Never: behaviour.

#pragma once

#include <cstddef>
#include <cstdint>

#define EXPORT extern "C" __attribute__((visibility("default")))

// CUresult, as far as it is used.
enum Code : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    UNKNOWN = 999,
};

// A pointer as the driver hands it out. No host code and no kernel can follow it as it stands: see memory.cpp.
using Address = uint64_t;

struct Dim3 {
    unsigned x, y, z;
    uint64_t count() const { return static_cast<uint64_t>(x) * y * z; }
};

// What a compiled module (device.h) and the driver know of each other.
struct KernelInfo {
    const char *name;
    void (*call)(void **arguments);
    unsigned parameters;
    const unsigned char *sizes;     // bytes of each parameter
    const unsigned char *pointers;  // whether it is a pointer
    unsigned max_threads;           // of __launch_bounds__, or 1024
};

struct DeviceCalls {
    void (*sync_block)(int line, int vote, int predicate, int *result);
    uint64_t (*exchange)(int line, int kind, unsigned mask, uint64_t value, unsigned argument, unsigned width);
    void *(*dynamic_shared)();
};

struct ThreadView {
    Dim3 thread_index, block_index;
};

struct ModuleInfo {
    unsigned abi;  // MODULE_ABI
    unsigned kernel_count;
    const KernelInfo *kernels;
    // Set by the driver.
    DeviceCalls *calls;
    ThreadView **current;
    Dim3 *block_size, *grid_size;
    // The static shared memory of all kernels of the module.
    char *shared_begin, *shared_end;
};

constexpr unsigned MODULE_ABI = 0x48454d55;
