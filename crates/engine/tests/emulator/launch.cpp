// Modules and launches of the emulated driver: kernels compiled for this processor, run block by block.
//
// Each thread of a block is a fiber with a stack of its own. A fiber runs until it waits at a barrier or in a warp
// operation; the order in which fibers and blocks get their turn changes all the time (but is the same in every run),
// so a result that depends on it, a missing barrier for example, does not stay hidden. Blocks are shared among threads;
// each has its own copy of the module, because static shared memory is a static variable there.
//
// Reported, and sticky: barriers that not all threads of a block reach, warp operations whose lanes do not meet,
// touching memory that is not the kernel's. Shared memory is all bits set when a block starts.
//
// Owns: modules, fibers, faults. Never: knows what a kernel computes.

#include <dlfcn.h>
#include <elf.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "emulator.h"

#ifndef __x86_64__
#error "the fibers are written for x86-64"
#endif

namespace emu {

constexpr unsigned MAX_THREADS = 1024, WARP = 32;
constexpr unsigned STATIC_SHARED = 48 * 1024, MOST_SHARED = 227 * 1024;
constexpr size_t STACK = 128 * 1024, PAGE = 4096;

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

// Saves the registers that a call preserves, changes stacks, and loads those of the other side.
extern "C" void emulator_switch(void **save, void *load);
asm(R"(
.text
.p2align 4
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
emulator_resume:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
extern "C" void emulator_resume();

enum class State { ready, at_barrier, in_warp, done };

struct Fiber {
    char *stack;
    void *sp = nullptr;
};

struct Thread {
    ThreadView view;
    Fiber *fiber = nullptr;
    State state = State::ready;
    int line = 0;
    unsigned number = 0;
    uint64_t result = 0;
    int vote = 0;
};

// Lanes of a warp that wait for each other in one operation.
struct Meeting {
    unsigned mask = 0, arrived = 0;
    int line = 0, kind = 0;
    uint64_t values[WARP];
    unsigned arguments[WARP], widths[WARP];
};

enum Vote { NO_VOTE, VOTE_OR, VOTE_AND, VOTE_COUNT };
enum Exchange { SHUFFLE, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, BALLOT, SYNC };

struct Worker {
    std::vector<Thread> threads = std::vector<Thread>(MAX_THREADS);
    std::vector<Fiber> fibers;
    std::vector<Fiber *> idle;
    std::vector<Meeting> meetings = std::vector<Meeting>(MAX_THREADS);  // at most one for each waiting lane
    void *scheduler = nullptr;
    Thread *running = nullptr;
    unsigned count = 0, arrived = 0;
    const ModuleInfo *module = nullptr;
    const KernelInfo *kernel = nullptr;
    void **arguments = nullptr;
    char *shared_pages = nullptr, *dynamic = nullptr;
    // What went wrong in the block: words of our own, or the address of a fault.
    std::string trouble;
    bool faulted = false;
    void *fault_address = nullptr;
    int fault_signal = 0;
};

thread_local Worker *worker = nullptr;
struct sigaction previous_segv, previous_bus, previous_fpe;
std::set<Module *> modules;
uint64_t launch_count = 0;

void to_scheduler() { emulator_switch(&worker->running->fiber->sp, worker->scheduler); }

// The block cannot go on: its fibers are abandoned where they stand.
void stop_block(std::string trouble) {
    if (worker->trouble.empty()) worker->trouble = std::move(trouble);
    worker->faulted = true;
    to_scheduler();
}

void fiber_main() {
    for (;;) {
        worker->kernel->call(worker->arguments);
        worker->running->state = State::done;
        to_scheduler();
    }
}

void prepare(Fiber &fiber) {
    auto top = reinterpret_cast<uint64_t *>(fiber.stack + STACK);
    *--top = 0;                                         // where fiber_main would return to
    *--top = reinterpret_cast<uint64_t>(&fiber_main);   // emulator_switch returns here
    for (int i = 0; i < 6; i++) *--top = 0;
    fiber.sp = top;
}

std::string at_line(int line) { return " (line " + std::to_string(line) + ")"; }

void sync_block(int line, int vote, int predicate, int *result) {
    Worker &w = *worker;
    Thread &self = *w.running;
    self.line = line;
    self.vote = predicate != 0;
    w.arrived++;
    if (w.arrived < w.count) {
        self.state = State::at_barrier;
        to_scheduler();
    } else {
        unsigned votes = 0;
        for (unsigned i = 0; i < w.count; i++) {
            Thread &other = w.threads[i];
            if (other.line != line) stop_block("threads of a block meet at different barriers" + at_line(other.line) + at_line(line));
            votes += static_cast<unsigned>(other.vote);
            other.state = State::ready;
        }
        unsigned outcome = vote == VOTE_COUNT ? votes : vote == VOTE_AND ? votes == w.count : votes > 0;
        for (unsigned i = 0; i < w.count; i++) w.threads[i].result = outcome;
        w.arrived = 0;
    }
    if (result) *result = static_cast<int>(w.running->result);
}

// Gives every lane of a complete meeting its result.
void settle(Worker &w, Meeting &m, unsigned first) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(m.mask >> lane & 1)) continue;
        Thread &thread = w.threads[first + lane];
        unsigned width = m.widths[lane], from = lane, base = lane & ~(width - 1);
        if (m.kind == BALLOT) {
            thread.result = 0;
            for (unsigned i = 0; i < WARP; i++) {
                if ((m.mask >> i & 1) && m.values[i]) thread.result |= 1ull << i;
            }
        } else if (m.kind != SYNC) {
            unsigned argument = m.arguments[lane];
            if (m.kind == SHUFFLE) from = base + (argument & (width - 1));
            if (m.kind == SHUFFLE_UP && lane - base >= argument) from = lane - argument;
            if (m.kind == SHUFFLE_DOWN && lane - base + argument < width) from = lane + argument;
            // Lanes of later groups keep their own value.
            if (m.kind == SHUFFLE_XOR && (lane ^ argument) < base + width) from = lane ^ argument;
            if (!(m.mask >> from & 1)) stop_block("a shuffle reads lane " + std::to_string(from) + ", which takes no part" + at_line(m.line));
            thread.result = m.values[from];
        }
        thread.state = State::ready;
    }
    m.mask = m.arrived = 0;
}

uint64_t exchange(int line, int kind, unsigned mask, uint64_t value, unsigned argument, unsigned width) {
    Worker &w = *worker;
    Thread &self = *w.running;
    unsigned lane = self.number % WARP, first = self.number - lane;
    unsigned lanes = std::min(WARP, w.count - first);
    unsigned present = lanes == WARP ? ~0u : (1u << lanes) - 1;
    self.line = line;
    if (!(mask >> lane & 1)) stop_block("a lane calls a warp operation whose mask leaves it out" + at_line(line));
    if (mask & ~present) stop_block("the mask of a warp operation names lanes that the block does not have" + at_line(line));
    if (width == 0 || width > WARP || (width & (width - 1))) stop_block("the width of a shuffle is no power of two" + at_line(line));
    Meeting *meeting = nullptr;
    for (unsigned i = first; i < first + lanes; i++) {
        Meeting &m = w.meetings[i];
        if (m.mask == 0 || !(m.mask & mask)) continue;
        if (m.mask != mask || m.line != line || m.kind != kind) {
            stop_block("lanes of a warp meet in different operations" + at_line(m.line) + at_line(line));
        }
        meeting = &m;
    }
    for (unsigned i = first; meeting == nullptr; i++) {
        if (w.meetings[i].mask == 0) meeting = &w.meetings[i];
    }
    meeting->mask = mask;
    meeting->line = line;
    meeting->kind = kind;
    meeting->arrived |= 1u << lane;
    meeting->values[lane] = value;
    meeting->arguments[lane] = argument;
    meeting->widths[lane] = width;
    if (meeting->arrived == mask) {
        settle(w, *meeting, first);
    } else {
        self.state = State::in_warp;
        to_scheduler();
    }
    return w.running->result;
}

void *dynamic_shared() { return worker->dynamic; }

DeviceCalls device_calls = {sync_block, exchange, dynamic_shared};

// A fault inside a kernel: note it, and go on in the scheduler.
void on_fault(int signal, siginfo_t *info, void *context) {
    if (worker != nullptr && worker->running != nullptr) {
        worker->faulted = true;
        worker->fault_address = info->si_addr;
        worker->fault_signal = signal;
        auto &registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
        registers[REG_RSP] = reinterpret_cast<greg_t>(worker->scheduler);
        registers[REG_RIP] = reinterpret_cast<greg_t>(&emulator_resume);
        return;
    }
    if (signal == SIGSEGV && in_guarded(info->si_addr)) {
        const char text[] = "emulator: the host touched device memory through a device pointer\n";
        [[maybe_unused]] auto written = write(2, text, sizeof text - 1);
    }
    sigaction(signal, signal == SIGSEGV ? &previous_segv : signal == SIGBUS ? &previous_bus : &previous_fpe, nullptr);
}

struct SignalStack {
    void *pages = nullptr;
    static constexpr size_t bytes = 64 * 1024;
    SignalStack() {
        stack_t stack{};
        sigaltstack(nullptr, &stack);
        if (!(stack.ss_flags & SS_DISABLE)) return;
        pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        stack.ss_flags = 0;
        stack.ss_size = bytes;
        stack.ss_sp = pages;
        sigaltstack(&stack, nullptr);
    }
    ~SignalStack() {
        if (!pages) return;
        stack_t none{};
        none.ss_flags = SS_DISABLE;
        sigaltstack(&none, nullptr);
        munmap(pages, bytes);
    }
};

void catch_faults() {
    static bool once = [] {
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
        sigaction(SIGFPE, &action, &previous_fpe);
        return true;
    }();
    (void)once;
    // A fault may be a full stack: the handler needs another one.
    thread_local SignalStack stack;
    (void)stack;
}

Fiber *take_fiber(Worker &w) {
    if (w.idle.empty()) {
        // All at once, because pointers to them are kept.
        w.fibers.resize(MAX_THREADS);
        for (Fiber &fiber : w.fibers) {
            auto p = static_cast<char *>(mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
            mprotect(p, PAGE, PROT_NONE);
            fiber.stack = p + PAGE;
            prepare(fiber);
            w.idle.push_back(&fiber);
        }
    }
    Fiber *fiber = w.idle.back();
    w.idle.pop_back();
    return fiber;
}

// A permutation of 0..n that differs from turn to turn: i -> (i * step + start) mod n.
struct Order {
    uint64_t n, step, start;
    Order(uint64_t n, uint64_t turn) : n(n) {
        uint64_t x = (turn + 1) * 0x9e3779b97f4a7c15ull;
        start = (x >> 33) % n;
        step = 1 + (x >> 7) % n;
        while (std::gcd(step, n) != 1) step++;
    }
    uint64_t at(uint64_t i) const { return (i % n * step + start) % n; }
};

const char *state_name(const Thread &t) {
    switch (t.state) {
        case State::done: return "ended";
        case State::at_barrier: return "waits at a barrier";
        case State::in_warp: return "waits in a warp operation";
        default: return "could run";
    }
}

// What the threads of a block that does not go on are doing: one of each kind.
std::string stalemate(const Worker &w) {
    std::map<std::pair<std::string, int>, unsigned> kinds;
    for (unsigned i = 0; i < w.count; i++) {
        kinds[{state_name(w.threads[i]), w.threads[i].state == State::done ? 0 : w.threads[i].line}]++;
    }
    std::string text = "not all threads of a block come to a barrier or warp operation:";
    for (auto &[kind, count] : kinds) {
        text += " " + std::to_string(count) + " " + kind.first + (kind.second ? at_line(kind.second) : "") + ";";
    }
    return text;
}

void run_block(Worker &w, Dim3 grid, Dim3 block, uint64_t number, unsigned dynamic_bytes, uint64_t turn) {
    w.count = static_cast<unsigned>(block.count());
    w.arrived = 0;
    w.faulted = false;
    for (unsigned i = 0; i < w.count; i++) w.meetings[i].mask = w.meetings[i].arrived = 0;
    Dim3 index = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                  static_cast<unsigned>(number / grid.x / grid.y)};
    for (unsigned i = 0; i < w.count; i++) {
        Thread &t = w.threads[i];
        t.view = {{i % block.x, i / block.x % block.y, i / block.x / block.y}, index};
        t.state = State::ready;
        t.number = i;
        t.fiber = nullptr;
    }
    memset(w.module->shared_begin, 0xff, static_cast<size_t>(w.module->shared_end - w.module->shared_begin));
    w.dynamic = w.shared_pages + PAGE + (MOST_SHARED + PAGE - 1) / PAGE * PAGE - (dynamic_bytes + 15) / 16 * 16;
    memset(w.dynamic, 0xff, dynamic_bytes);
    unsigned done = 0;
    for (uint64_t pass = 0; done < w.count; pass++) {
        Order order(w.count, turn * 31 + pass);
        bool moved = false;
        for (unsigned i = 0; i < w.count; i++) {
            Thread &thread = w.threads[order.at(i)];
            if (thread.state != State::ready) continue;
            if (!thread.fiber) thread.fiber = take_fiber(w);
            w.running = &thread;
            *w.module->current = &thread.view;
            emulator_switch(&w.scheduler, thread.fiber->sp);
            w.running = nullptr;
            if (w.faulted) {
                if (w.trouble.empty()) {
                    w.trouble = w.fault_signal == SIGFPE ? "an integer division by zero" : describe(w.fault_address) + " is touched";
                }
                auto [x, y, z] = thread.view.thread_index;
                w.trouble = std::string("kernel `") + w.kernel->name + "`, block (" + std::to_string(index.x) + ", " +
                            std::to_string(index.y) + ", " + std::to_string(index.z) + "), thread (" + std::to_string(x) + ", " +
                            std::to_string(y) + ", " + std::to_string(z) + "): " + w.trouble;
                return;
            }
            moved = true;
            if (thread.state == State::done) {
                w.idle.push_back(thread.fiber);
                done++;
            }
        }
        if (!moved) {
            w.faulted = true;
            w.trouble = std::string("kernel `") + w.kernel->name + "`: " + stalemate(w);
            return;
        }
    }
}

Worker &worker_number(size_t i) {
    static std::vector<std::unique_ptr<Worker>> workers;
    while (workers.size() <= i) {
        auto w = std::make_unique<Worker>();
        // Room for the most shared memory, between two pages that cannot be touched.
        size_t room = (MOST_SHARED + PAGE - 1) / PAGE * PAGE;
        w->shared_pages = static_cast<char *>(mmap(nullptr, room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        mprotect(w->shared_pages + PAGE, room, PROT_READ | PROT_WRITE);
        workers.push_back(std::move(w));
    }
    return *workers[i];
}

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
    Order order(blocks, launch_count);
    std::atomic<uint64_t> next{0};
    std::atomic<bool> stop{false};
    auto work = [&](size_t number) {
        catch_faults();
        Worker &w = worker_number(number);
        worker = &w;
        w.module = module.copies[number];
        w.kernel = &w.module->kernels[call.function->index];
        w.arguments = pointers.data();
        w.trouble.clear();
        w.fault_signal = 0;
        *w.module->calls = device_calls;
        *w.module->block_size = call.block;
        *w.module->grid_size = call.grid;
        for (uint64_t i; !stop && (i = next++) < blocks;) {
            run_block(w, call.grid, call.block, order.at(i), call.dynamic_bytes, launch_count + i);
            if (w.faulted) {
                stop = true;
                w.idle.clear();
                for (Fiber &fiber : w.fibers) {
                    prepare(fiber);
                    w.idle.push_back(&fiber);
                }
            }
        }
        worker = nullptr;
    };
    size_t workers = std::min<uint64_t>(module.copies.size(), blocks);
    // Threads cost more than small launches do.
    if (blocks * call.block.count() < 4096) workers = 1;
    for (size_t i = 0; i < workers; i++) worker_number(i);
    std::vector<std::thread> helpers;
    for (size_t i = 1; i < workers; i++) helpers.emplace_back(work, i);
    work(0);
    for (auto &helper : helpers) helper.join();
    for (size_t i = 0; i < workers; i++) {
        Worker &w = worker_number(i);
        if (!w.trouble.empty()) return broken(w.fault_signal ? ILLEGAL_ADDRESS : LAUNCH_FAILED, w.trouble);
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

int launch(Function *function, Dim3 grid, Dim3 block, unsigned dynamic_bytes, Handle stream, void **arguments) {
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
    if (++launch_count == settings.fail_launch) {
        return broken(LAUNCH_FAILED, "launch " + std::to_string(launch_count) + " fails, as asked for");
    }
    return enqueue(stream, info.name, [call = std::move(call)] { return run_call(call); });
}

uint64_t launches() { return launch_count; }

}  // namespace emu
