// What the files of the emulated driver share: memory, streams, launches, reports.
//
// Owns: the seams between memory.cpp, streams.cpp, launch.cpp, driver.cpp and cublaslt.cpp. Never: the C interface.

#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "abi.h"

namespace emu {

// One lock for the whole driver: nothing here is fast enough to need more.
extern std::recursive_mutex lock;

// Settings, read once from the environment (HEADSTART_EMULATOR_...) and changeable by tests.
struct Settings {
    size_t memory_bytes;  // of the device: MEMORY, in bytes
    uint64_t fail_launch; // the launch with this number (from 1) fails: FAIL_LAUNCH
    int workers;          // threads that run blocks: WORKERS
    int devices;          // DEVICES
};
extern Settings settings;

// Says on standard error what was done wrong, and returns `code`.
int report(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The first error of work on the device; everything fails with it from then on, as on a GPU.
extern int sticky;
// Reports, and makes the error sticky.
int broken(int code, const std::string &what);

// memory.cpp
int allocate(size_t bytes, Address *address);
int release(Address address);
void memory_info(size_t *free, size_t *total);
// The host's view of device memory; null (and a report) unless all of it lies in one live allocation.
void *reach(Address address, uint64_t bytes, const char *what);
// The same for a kernel's pointer, whose extent is unknown.
void *reach_start(Address address, const char *what);
std::string describe(const void *host);
bool is_device(uint64_t address);
bool in_guarded(const void *host);
int check_margins();
void *pinned_allocate(size_t bytes);
bool pinned_release(void *);
bool is_pinned(const void *host, size_t bytes);

// streams.cpp. Work is queued and runs only when somebody waits for it.
struct Stream;
struct Function;
using Handle = void *;
using Work = std::function<int()>;
// `function`: the kernel that is launched, where one is.
int enqueue(Handle stream, const char *call, Work work, Function *function = nullptr);
bool capturing(Handle stream);
bool any_capture();
int synchronize(Handle stream);
int synchronize_all();
int drain();
Handle create_stream(bool blocking);
int destroy_stream(Handle);

// launch.cpp
struct Module;
int load_module(const void *image, Module **module);
int unload_module(Module *);
int find_function(Module *, const char *name, Function **function);
int function_attribute(Function *, int attribute, int *value);
int set_function_attribute(Function *, int attribute, int value);
// What a launch does when its turn comes, once its grid and arguments are checked.
int prepare_launch(Function *, Dim3 grid, Dim3 block, unsigned dynamic_bytes, void **arguments, Work *work);
int launch(Function *, Dim3 grid, Dim3 block, unsigned dynamic_bytes, Handle stream, void **arguments);
// Counts a launch; an error if it is the one that is to fail.
int count_launch();
uint64_t launches();

}  // namespace emu
