// Modules and launches of the emulated driver: kernels compiled for this processor, run block by block.
//
// Owns: modules, the limits of a launch, sharing blocks among threads. Never: runs a block (blocks.cpp).

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <set>
#include <thread>

#include "blocks.h"

namespace emu {

struct Function {
    Module *module;
    unsigned index;
    int dynamic_limit = STATIC_SHARED;
};

struct Module {
    // One copy of the library for each worker.
    std::vector<void *> libraries;
    std::vector<int> files;
    std::vector<const ModuleInfo *> copies;
    std::map<std::string, std::unique_ptr<Function>> functions;
    size_t shared_bytes() const { return static_cast<size_t>(copies[0]->shared_end - copies[0]->shared_begin); }
};

namespace {

std::set<Module *> modules;
uint64_t launch_count = 0;

struct Call {
    Function *function;
    Dim3 grid, block;
    unsigned dynamic_bytes;
    std::vector<uint64_t> arguments;
};

int run_call(const Call &call) {
    Module &module = *call.function->module;
    if (!modules.count(&module)) return broken(INVALID_HANDLE, "a kernel runs after its module was unloaded");
    const KernelInfo &info = module.copies[0]->kernels[call.function->index];
    std::vector<uint64_t> values = call.arguments;
    std::vector<void *> pointers;
    for (unsigned i = 0; i < info.parameters; i++) {
        if (info.pointers[i] && values[i] != 0) {
            void *host = reach_start(values[i], info.name);
            if (!host) return broken(ILLEGAL_ADDRESS, std::string("kernel `") + info.name + "`: argument " + std::to_string(i) + " points to no live memory");
            values[i] = reinterpret_cast<uint64_t>(host);
        }
        pointers.push_back(&values[i]);
    }
    uint64_t blocks = call.grid.count();
    std::atomic<uint64_t> next{0};
    size_t workers = std::min<uint64_t>(module.copies.size(), blocks);
    // Threads cost more than small launches do.
    if (blocks * call.block.count() < 4096) workers = 1;
    make_workers(workers);
    std::vector<Trouble> troubles(workers);
    auto work = [&](size_t i) {
        const ModuleInfo &copy = *module.copies[i];
        Grid grid{call.grid, call.block, call.dynamic_bytes, launch_count};
        troubles[i] = run_blocks(i, copy, copy.kernels[call.function->index], pointers.data(), grid, [&] { return next++; });
        if (troubles[i].code) next = blocks;
    };
    std::vector<std::thread> helpers;
    for (size_t i = 1; i < workers; i++) helpers.emplace_back(work, i);
    work(0);
    for (auto &helper : helpers) helper.join();
    for (auto &trouble : troubles) {
        if (trouble.code) return broken(trouble.code, trouble.text);
    }
    return SUCCESS;
}

// The length of an ELF file in memory; its section headers stand at its end.
size_t image_bytes(const void *image) {
    auto header = static_cast<const Elf64_Ehdr *>(image);
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_machine != EM_X86_64) return 0;
    return header->e_shoff + static_cast<size_t>(header->e_shentsize) * header->e_shnum;
}

}  // namespace

int load_module(const void *image, Module **loaded) {
    size_t bytes = image_bytes(image);
    if (bytes == 0) return report(NO_BINARY_FOR_GPU, "a module that the emulated compiler did not make");
    auto module = std::make_unique<Module>();
    for (int i = 0; i < settings.workers; i++) {
        int file = memfd_create("kernels", 0);
        for (size_t at = 0; at < bytes;) {
            auto written = write(file, static_cast<const char *>(image) + at, bytes - at);
            if (written <= 0) return report(OUT_OF_MEMORY, "a module could not be written");
            at += static_cast<size_t>(written);
        }
        // The descriptor stays open: its number is what makes the name unique to the loader.
        std::string name = "/proc/self/fd/" + std::to_string(file);
        void *library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) return report(INVALID_IMAGE, "a module does not load: %s", dlerror());
        auto info = static_cast<const ModuleInfo *>(dlsym(library, "emulator_module"));
        if (!info || info->abi != MODULE_ABI) return report(INVALID_IMAGE, "a module of another emulator");
        module->files.push_back(file);
        module->libraries.push_back(library);
        module->copies.push_back(info);
    }
    for (unsigned i = 0; i < module->copies[0]->kernel_count; i++) {
        auto function = std::make_unique<Function>();
        function->module = module.get();
        function->index = i;
        module->functions[module->copies[0]->kernels[i].name] = std::move(function);
    }
    modules.insert(*loaded = module.release());
    return SUCCESS;
}

int unload_module(Module *module) {
    if (modules.erase(module) == 0) return report(INVALID_HANDLE, "cuModuleUnload: no such module");
    for (void *library : module->libraries) dlclose(library);
    for (int file : module->files) close(file);
    delete module;
    return SUCCESS;
}

int find_function(Module *module, const char *name, Function **function) {
    if (!modules.count(module)) return report(INVALID_HANDLE, "cuModuleGetFunction: no such module");
    auto found = module->functions.find(name);
    if (found == module->functions.end()) return report(NOT_FOUND, "no kernel is called `%s`", name);
    *function = found->second.get();
    return SUCCESS;
}

int function_attribute(Function *function, int attribute, int *value) {
    const KernelInfo &info = function->module->copies[0]->kernels[function->index];
    switch (attribute) {
        case 0: *value = static_cast<int>(info.max_threads); return SUCCESS;
        case 1: *value = static_cast<int>(function->module->shared_bytes()); return SUCCESS;  // of the whole module
        case 2: case 3: *value = 0; return SUCCESS;
        case 4: *value = 32; return SUCCESS;
        case 5: case 6: *value = 90; return SUCCESS;
        case 8: *value = function->dynamic_limit; return SUCCESS;
        default: return report(INVALID_VALUE, "cuFuncGetAttribute: attribute %d is not emulated", attribute);
    }
}

int set_function_attribute(Function *function, int attribute, int value) {
    if (attribute == 9) return SUCCESS;  // preferred carve-out: a hint
    if (attribute != 8) return report(INVALID_VALUE, "cuFuncSetAttribute: attribute %d is not emulated", attribute);
    if (value < 0 || static_cast<size_t>(value) + function->module->shared_bytes() > MOST_SHARED) {
        return report(INVALID_VALUE, "cuFuncSetAttribute: %d bytes of dynamic shared memory are more than a block has", value);
    }
    function->dynamic_limit = value;
    return SUCCESS;
}

int prepare_launch(Function *function, Dim3 grid, Dim3 block, unsigned dynamic_bytes, void **arguments, Work *work) {
    const KernelInfo &info = function->module->copies[0]->kernels[function->index];
    uint64_t threads = block.count(), blocks = grid.count();
    if (threads == 0 || blocks == 0) return report(INVALID_VALUE, "kernel `%s`: an empty grid or block", info.name);
    if (threads > info.max_threads || block.x > 1024 || block.y > 1024 || block.z > 64) {
        return report(INVALID_VALUE, "kernel `%s`: %llu threads in a block", info.name, (unsigned long long)threads);
    }
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        return report(INVALID_VALUE, "kernel `%s`: a grid of %u x %u x %u", info.name, grid.x, grid.y, grid.z);
    }
    if (dynamic_bytes > static_cast<unsigned>(function->dynamic_limit)) {
        return report(INVALID_VALUE, "kernel `%s`: %u bytes of dynamic shared memory; %d are allowed", info.name, dynamic_bytes,
                      function->dynamic_limit);
    }
    Call call{function, grid, block, dynamic_bytes, {}};
    for (unsigned i = 0; i < info.parameters; i++) {
        uint64_t value = 0;
        memcpy(&value, arguments[i], info.sizes[i]);
        if (info.pointers[i] && value != 0 && !reach_start(value, info.name)) {
            return report(INVALID_VALUE, "kernel `%s`: argument %u points to no live memory", info.name, i);
        }
        call.arguments.push_back(value);
    }
    *work = [call = std::move(call)] { return run_call(call); };
    return SUCCESS;
}

int launch(Function *function, Dim3 grid, Dim3 block, unsigned dynamic_bytes, Handle stream, void **arguments) {
    Work work;
    if (int code = prepare_launch(function, grid, block, dynamic_bytes, arguments, &work)) return code;
    // In a graph, what counts is each time that it runs.
    if (!capturing(stream)) {
        if (int code = count_launch()) return code;
    }
    return enqueue(stream, "cuLaunchKernel", std::move(work), function);
}

int count_launch() {
    if (++launch_count != settings.fail_launch) return SUCCESS;
    return broken(LAUNCH_FAILED, "launch " + std::to_string(launch_count) + " fails, as asked for");
}

uint64_t launches() { return launch_count; }

}  // namespace emu
