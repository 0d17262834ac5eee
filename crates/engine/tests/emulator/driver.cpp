// The C interface of the emulated CUDA driver, `libcuda.so`: one device of compute capability 9.0.
//
// Owns: the order of calls (start, context, work), sticky errors, settings. Never: does the work itself.

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "emulator.h"

namespace emu {

std::recursive_mutex lock;
int sticky = SUCCESS;

namespace {

uint64_t setting(const char *name, uint64_t otherwise) {
    const char *text = getenv((std::string("HEADSTART_EMULATOR_") + name).c_str());
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

bool started = false;
int retained = 0;
thread_local void *current = nullptr;
char context;  // its address is the one context

const char *names(int code) {
    switch (code) {
        case SUCCESS: return "CUDA_SUCCESS";
        case INVALID_VALUE: return "CUDA_ERROR_INVALID_VALUE";
        case OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
        case NOT_INITIALIZED: return "CUDA_ERROR_NOT_INITIALIZED";
        case NO_DEVICE: return "CUDA_ERROR_NO_DEVICE";
        case INVALID_DEVICE: return "CUDA_ERROR_INVALID_DEVICE";
        case INVALID_IMAGE: return "CUDA_ERROR_INVALID_IMAGE";
        case INVALID_CONTEXT: return "CUDA_ERROR_INVALID_CONTEXT";
        case NO_BINARY_FOR_GPU: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
        case INVALID_HANDLE: return "CUDA_ERROR_INVALID_HANDLE";
        case NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
        case NOT_READY: return "CUDA_ERROR_NOT_READY";
        case ILLEGAL_ADDRESS: return "CUDA_ERROR_ILLEGAL_ADDRESS";
        case LAUNCH_OUT_OF_RESOURCES: return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
        case LAUNCH_FAILED: return "CUDA_ERROR_LAUNCH_FAILED";
        case NOT_SUPPORTED: return "CUDA_ERROR_NOT_SUPPORTED";
        case CAPTURE_UNSUPPORTED: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
        case CAPTURE_INVALIDATED: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
        case UNKNOWN: return "CUDA_ERROR_UNKNOWN";
        default: return nullptr;
    }
}

// What every call that works on the device begins with.
int ready(const char *call) {
    if (!started) return report(NOT_INITIALIZED, "%s before cuInit", call);
    if (sticky != SUCCESS) return sticky;
    if (current != &context || retained == 0) return report(INVALID_CONTEXT, "%s without a context on this thread", call);
    return SUCCESS;
}

// A copy or fill that is checked now, and again when it runs.
int device_work(const char *call, Handle stream, std::function<int()> check, std::function<void()> act) {
    if (int code = ready(call)) return code;
    if (int code = check()) return code;
    return enqueue(stream, call, [call, check, act] {
        if (check() != SUCCESS) return broken(ILLEGAL_ADDRESS, std::string(call) + ": its memory was freed before it ran");
        act();
        return int(SUCCESS);
    });
}

int known(bool ok) { return ok ? SUCCESS : INVALID_VALUE; }

int fill(const char *call, Address to, uint32_t value, size_t count, size_t unit, Handle stream) {
    if (to % unit != 0) return report(INVALID_VALUE, "%s: the address is no multiple of %zu", call, unit);
    return device_work(
        call, stream, [=] { return known(reach(to, count * unit, call)); },
        [=] {
            auto p = static_cast<char *>(reach(to, count * unit, call));
            for (size_t i = 0; i < count; i++) memcpy(p + i * unit, &value, unit);
        });
}

int upload(const char *call, Address to, const void *from, size_t bytes, Handle stream) {
    if (is_device(reinterpret_cast<uint64_t>(from))) return report(INVALID_VALUE, "%s: the source is on the device", call);
    auto check = [=] { return known(reach(to, bytes, call)); };
    if (is_pinned(from, bytes)) {
        // Read when the copy runs: the caller must leave it alone until then.
        return device_work(call, stream, check, [=] { memcpy(reach(to, bytes, call), from, bytes); });
    }
    if (capturing(stream)) return report(CAPTURE_UNSUPPORTED, "%s: a graph cannot hold a copy from memory that is not pinned", call);
    std::vector<char> copy(static_cast<const char *>(from), static_cast<const char *>(from) + bytes);
    return device_work(call, stream, check, [=, copy = std::move(copy)] { memcpy(reach(to, bytes, call), copy.data(), bytes); });
}

int download(const char *call, void *to, Address from, size_t bytes, Handle stream) {
    if (is_device(reinterpret_cast<uint64_t>(to))) return report(INVALID_VALUE, "%s: the target is on the device", call);
    int code = device_work(
        call, stream, [=] { return known(reach(from, bytes, call)); }, [=] { memcpy(to, reach(from, bytes, call), bytes); });
    // Into memory that is not pinned, the driver returns when the copy is done.
    return code == SUCCESS && !is_pinned(to, bytes) && !capturing(stream) ? synchronize(stream) : code;
}

int move(const char *call, Address to, Address from, size_t bytes, Handle stream) {
    return device_work(
        call, stream, [=] { return known(reach(to, bytes, call) && reach(from, bytes, call)); },
        [=] { memmove(reach(to, bytes, call), reach(from, bytes, call), bytes); });
}

}  // namespace

Settings settings = {setting("MEMORY", 4ull << 30), setting("FAIL_LAUNCH", 0), static_cast<int>(setting("WORKERS", 2)),
                     static_cast<int>(setting("DEVICES", 1))};

int report(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char text[1000];
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "emulator: %s (%s)\n", text, names(code) ? names(code) : "?");
    return code;
}

int broken(int code, const std::string &what) {
    report(code, "%s", what.c_str());
    if (sticky == SUCCESS) sticky = code;
    return sticky;
}

}  // namespace emu

using namespace emu;
#define LOCKED std::lock_guard<std::recursive_mutex> guard(lock)
#define READY(call) LOCKED; if (int code = ready(call)) return code

// For tests of the emulator and with it.
EXPORT void emulator_set_memory(size_t bytes) { LOCKED; settings.memory_bytes = bytes; }
EXPORT void emulator_fail_launch(uint64_t number) { LOCKED; settings.fail_launch = number; }
EXPORT uint64_t emulator_launches() { LOCKED; return launches(); }
// Forgets a sticky error, as only a new process does on a GPU.
EXPORT void emulator_clear_error() { LOCKED; sticky = SUCCESS; }
// For libcublasLt.so.
EXPORT void *emulator_reach(Address address, uint64_t bytes, const char *what) { LOCKED; return reach(address, bytes, what); }
EXPORT int emulator_enqueue(Handle stream, const char *call, int (*work)(void *), void (*drop)(void *), void *data) {
    READY(call);
    std::shared_ptr<void> owner(data, drop);
    return enqueue(stream, call, [work, owner] { return work(owner.get()); });
}
EXPORT int emulator_broken(int code, const char *what) { LOCKED; return broken(code, what); }

EXPORT int cuInit(unsigned flags) {
    LOCKED;
    if (flags != 0) return INVALID_VALUE;
    if (settings.devices == 0) return NO_DEVICE;
    started = true;
    return SUCCESS;
}
EXPORT int cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
EXPORT int cuGetErrorName(int code, const char **text) { *text = names(code); return *text ? SUCCESS : INVALID_VALUE; }
EXPORT int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }

EXPORT int cuDeviceGetCount(int *count) {
    LOCKED;
    if (!started) return NOT_INITIALIZED;
    *count = settings.devices;
    return SUCCESS;
}
EXPORT int cuDeviceGet(int *device, int ordinal) {
    LOCKED;
    if (!started) return NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= settings.devices) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}
EXPORT int cuDeviceGetName(char *name, int bytes, int) { snprintf(name, static_cast<size_t>(bytes), "emulated GPU"); return SUCCESS; }
EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int) { *bytes = settings.memory_bytes; return SUCCESS; }
EXPORT int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, device, 16); return SUCCESS; }
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
        case 1: case 2: case 3: *value = 1024; break;       // threads of a block: all, x, y
        case 4: *value = 64; break;                          // z
        case 5: *value = 0x7fffffff; break;                  // grid: x
        case 6: case 7: *value = 65535; break;               // y, z
        case 8: *value = 48 * 1024; break;                   // shared memory of a block
        case 10: *value = 32; break;                         // warp
        case 12: *value = 65536; break;                      // registers of a block
        case 13: case 36: *value = 1000000; break;           // clocks, kHz
        case 16: *value = 2; break;                          // multiprocessors
        case 37: *value = 64; break;                         // width of the memory bus
        case 38: *value = 1 << 20; break;                    // L2
        case 39: *value = 2048; break;                       // threads of a multiprocessor
        case 41: *value = 1; break;                          // unified addresses
        case 75: *value = 9; break;                          // compute capability
        case 76: *value = 0; break;
        case 81: *value = 228 * 1024; break;                 // shared memory of a multiprocessor
        case 97: *value = 227 * 1024; break;                 // of a block, when asked for
        case 115: *value = 1; break;                         // memory pools
        default: *value = 0;
    }
    return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRetain(void **made, int device) {
    LOCKED;
    if (!started) return NOT_INITIALIZED;
    if (device != 0) return report(INVALID_DEVICE, "only the first device can be worked on");
    retained++;
    *made = &context;
    return SUCCESS;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
    LOCKED;
    if (retained == 0) return report(INVALID_CONTEXT, "the context is released more often than it was retained");
    retained--;
    return SUCCESS;
}
EXPORT int cuCtxSetCurrent(void *made) {
    if (made != nullptr && made != &context) return report(INVALID_CONTEXT, "cuCtxSetCurrent: no such context");
    current = made;
    return SUCCESS;
}
EXPORT int cuCtxGetCurrent(void **made) { *made = current; return SUCCESS; }
EXPORT int cuCtxSynchronize() { READY("cuCtxSynchronize"); return synchronize_all(); }
EXPORT int cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return SUCCESS; }

EXPORT int cuMemAlloc_v2(Address *address, size_t bytes) {
    READY("cuMemAlloc");
    if (any_capture()) return report(CAPTURE_UNSUPPORTED, "cuMemAlloc while a stream is captured");
    return allocate(bytes, address);
}
EXPORT int cuMemAllocAsync(Address *address, size_t bytes, Handle stream) {
    READY("cuMemAllocAsync");
    if (capturing(stream)) return report(CAPTURE_UNSUPPORTED, "the emulator captures no allocations");
    return allocate(bytes, address);
}
EXPORT int cuMemFree_v2(Address address) {
    // After an error, memory can still be given back.
    LOCKED;
    if (!started) return NOT_INITIALIZED;
    if (address == 0) return SUCCESS;
    if (any_capture()) return report(CAPTURE_UNSUPPORTED, "cuMemFree while a stream is captured");
    drain();
    int code = release(address);
    return sticky != SUCCESS ? sticky : code;
}
EXPORT int cuMemFreeAsync(Address address, Handle stream) {
    READY("cuMemFreeAsync");
    if (capturing(stream)) return report(CAPTURE_UNSUPPORTED, "the emulator captures no allocations");
    if (!reach_start(address, "cuMemFreeAsync")) return INVALID_VALUE;
    return enqueue(stream, "cuMemFreeAsync", [address] { return release(address); });
}
EXPORT int cuMemGetInfo_v2(size_t *free, size_t *total) { READY("cuMemGetInfo"); memory_info(free, total); return SUCCESS; }
EXPORT int cuMemHostAlloc(void **p, size_t bytes, unsigned) {
    READY("cuMemHostAlloc");
    *p = pinned_allocate(bytes);
    return *p ? SUCCESS : OUT_OF_MEMORY;
}
EXPORT int cuMemFreeHost(void *p) {
    LOCKED;
    drain();
    return pinned_release(p) ? SUCCESS : report(INVALID_VALUE, "cuMemFreeHost: not pinned");
}

EXPORT int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, Handle stream) { LOCKED; return upload("cuMemcpyHtoDAsync", to, from, bytes, stream); }
EXPORT int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, Handle stream) { LOCKED; return download("cuMemcpyDtoHAsync", to, from, bytes, stream); }
EXPORT int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) { LOCKED; return move("cuMemcpyDtoDAsync", to, from, bytes, stream); }
EXPORT int cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) {
    LOCKED;
    int code = upload("cuMemcpyHtoD", to, from, bytes, nullptr);
    return code ? code : synchronize(nullptr);
}
EXPORT int cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) {
    LOCKED;
    int code = download("cuMemcpyDtoH", to, from, bytes, nullptr);
    return code ? code : synchronize(nullptr);
}
EXPORT int cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) { LOCKED; return move("cuMemcpyDtoD", to, from, bytes, nullptr); }
EXPORT int cuMemsetD8Async(Address to, unsigned char value, size_t count, Handle stream) { LOCKED; return fill("cuMemsetD8Async", to, value, count, 1, stream); }
EXPORT int cuMemsetD32Async(Address to, unsigned value, size_t count, Handle stream) { LOCKED; return fill("cuMemsetD32Async", to, value, count, 4, stream); }
EXPORT int cuMemsetD8_v2(Address to, unsigned char value, size_t count) { LOCKED; return fill("cuMemsetD8", to, value, count, 1, nullptr); }
EXPORT int cuMemsetD32_v2(Address to, unsigned value, size_t count) { LOCKED; return fill("cuMemsetD32", to, value, count, 4, nullptr); }

EXPORT int cuStreamCreate(Handle *stream, unsigned flags) { READY("cuStreamCreate"); *stream = create_stream((flags & 1) == 0); return SUCCESS; }
EXPORT int cuStreamCreateWithPriority(Handle *stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
EXPORT int cuStreamSynchronize(Handle stream) { READY("cuStreamSynchronize"); return synchronize(stream); }
EXPORT int cuStreamDestroy_v2(Handle stream) { LOCKED; return destroy_stream(stream); }
EXPORT int cuLaunchHostFunc(Handle stream, void (*call)(void *), void *data) {
    READY("cuLaunchHostFunc");
    return enqueue(stream, "cuLaunchHostFunc", [call, data] { call(data); return int(SUCCESS); });
}

EXPORT int cuModuleLoadData(Module **module, const void *image) { READY("cuModuleLoadData"); return load_module(image, module); }
EXPORT int cuModuleLoadDataEx(Module **module, const void *image, unsigned, int *, void **) { return cuModuleLoadData(module, image); }
EXPORT int cuModuleUnload(Module *module) { LOCKED; drain(); return unload_module(module); }
EXPORT int cuModuleGetFunction(Function **function, Module *module, const char *name) { READY("cuModuleGetFunction"); return find_function(module, name, function); }
EXPORT int cuFuncGetAttribute(int *value, int attribute, Function *function) { READY("cuFuncGetAttribute"); return function_attribute(function, attribute, value); }
EXPORT int cuFuncSetAttribute(Function *function, int attribute, int value) { READY("cuFuncSetAttribute"); return set_function_attribute(function, attribute, value); }
EXPORT int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned dynamic_bytes, Handle stream, void **arguments, void **extra) {
    READY("cuLaunchKernel");
    if (extra) return report(NOT_SUPPORTED, "cuLaunchKernel: `extra` is not emulated");
    return launch(function, {gx, gy, gz}, {bx, by, bz}, dynamic_bytes, stream, arguments);
}
