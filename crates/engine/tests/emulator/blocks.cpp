// Blocks of threads, run on one processor thread.
//
// Each thread of a block is a fiber with a stack of its own. A fiber runs until it waits at a barrier or in a warp
// operation; the order in which fibers and blocks get their turn changes all the time (but is the same in every run),
// so a result that depends on it, a missing barrier for example, does not stay hidden. Blocks are shared among
// processor threads; each has its own copy of the module, because static shared memory is a static variable there.
//
// Reported: barriers that not all threads of a block reach, warp operations whose lanes do not meet, touching memory
// that is not the kernel's. Shared memory is all bits set when a block starts.
//
// Owns: fibers, barriers, warp operations, faults. Never: knows modules or streams.

#include "blocks.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>
#include <map>

#ifndef __x86_64__
#error "the fibers are written for x86-64"
#endif

namespace emu {
namespace {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 128 * 1024, PAGE = 4096;

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

void run_block(Worker &w, const Grid &shape, uint64_t number, uint64_t turn) {
    auto [grid, block, dynamic_bytes, launch] = shape;
    (void)launch;
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

}  // namespace

void make_workers(size_t count) { worker_number(count - 1); }

Trouble run_blocks(size_t number, const ModuleInfo &module, const KernelInfo &kernel, void **arguments, const Grid &grid,
                   const std::function<uint64_t()> &next) {
    catch_faults();
    Worker &w = worker_number(number);
    worker = &w;
    w.module = &module;
    w.kernel = &kernel;
    w.arguments = arguments;
    w.trouble.clear();
    w.faulted = false;
    w.fault_signal = 0;
    *module.calls = device_calls;
    *module.block_size = grid.block;
    *module.grid_size = grid.grid;
    uint64_t blocks = grid.grid.count();
    Order order(blocks, grid.turn);
    for (uint64_t i; !w.faulted && (i = next()) < blocks;) run_block(w, grid, order.at(i), grid.turn + i);
    worker = nullptr;
    if (!w.faulted) return {};
    // The fibers stand where they were left: they start anew.
    w.idle.clear();
    for (Fiber &fiber : w.fibers) {
        prepare(fiber);
        w.idle.push_back(&fiber);
    }
    return {w.fault_signal ? ILLEGAL_ADDRESS : LAUNCH_FAILED, w.trouble};
}

}  // namespace emu
