// The C interface of the emulated NCCL, `libnccl.so.2`: processes of this machine, each with an emulated GPU, exchange
// through Unix sockets, one between each two ranks, in a folder that the unique id names.
//
// As in the library that it stands for: calls of a communicator that does not block go on in a thread of the library, and
// nothing may be asked of it meanwhile; an exchange is work of its stream, which moves nothing before its turn and holds up
// what comes behind; messages between two ranks are matched in their order; what is lost hangs until it is aborted. Beyond it:
// lengths and types that do not match are errors, and what hangs for longer than HEADSTART_EMULATOR_NCCL_TIMEOUT_MS (30 s) is.
// A GPU works while its host does not look: so the library's thread runs a stream that holds exchanges, a little later.
//
// Owns: communicators, groups, the library's thread. Never: moves a byte (nccl_exchange.cpp); collectives, of which the engine
// uses none.

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "nccl.h"

namespace emulated_nccl {
namespace {

constexpr auto LATER = std::chrono::milliseconds(20);  // when a stream is run whose host does not wait for it

// Never destroyed: threads may still ask while the process ends.
std::mutex &registry_lock = *new std::mutex;
std::map<Communicator *, Shared> &registry = *new std::map<Communicator *, Shared>;
std::string &last_error = *new std::string;

Shared find(Communicator *handle) {
    std::lock_guard<std::mutex> guard(registry_lock);
    auto found = registry.find(handle);
    return found == registry.end() ? nullptr : found->second;
}

}  // namespace

int report(int code, const char *text, ...) {
    char message[512];
    va_list list;
    va_start(list, text);
    vsnprintf(message, sizeof message, text, list);
    va_end(list);
    fprintf(stderr, "emulated NCCL: %s\n", message);
    std::lock_guard<std::mutex> guard(registry_lock);
    last_error = message;
    return code;
}

namespace {

uint64_t size_of(int type) {
    switch (type) {
        case 0: case 1: case 10: case 11: return 1;
        case 2: case 3: case 7: return 4;
        case 4: case 5: case 8: return 8;
        case 6: case 9: return 2;
        default: return 0;
    }
}

// ---- the library's thread ----

void work(Shared c) {
    std::unique_lock<std::mutex> guard(c->lock);
    for (;;) {
        c->woken.wait_for(guard, LATER, [&] { return c->ending || !c->tasks.empty(); });
        if (c->ending) return;
        if (!c->tasks.empty()) {
            auto task = std::move(c->tasks.front());
            c->tasks.pop_front();
            guard.unlock();
            task();
            guard.lock();
        } else if (c->unfinished > 0) {
            void *stream = c->stream;
            guard.unlock();
            cuStreamQuery(stream);
            guard.lock();
        }
    }
}

void give(const Shared &c, std::function<void()> task) {
    std::lock_guard<std::mutex> guard(c->lock);
    c->tasks.push_back(std::move(task));
    c->woken.notify_all();
}

void end(const Shared &c) {
    {
        std::lock_guard<std::mutex> guard(c->lock);
        c->ending = true;
        c->woken.notify_all();
    }
    if (c->thread.joinable()) c->thread.join();
    for (int socket : c->sockets) {
        if (socket >= 0) shutdown(socket, SHUT_RDWR);
    }
}

// Communicators that are there when the process ends: their threads end before the driver does.
struct AtExit {
    ~AtExit() {
        std::map<Communicator *, Shared> left;
        {
            std::lock_guard<std::mutex> guard(registry_lock);
            left.swap(registry);
        }
        for (auto &[handle, c] : left) {
            c->aborted = true;
            end(c);
        }
    }
} at_exit;

// ---- groups ----

thread_local int depth = 0;
thread_local int group_error = OK;
thread_local std::vector<Message> group;
thread_local Shared group_communicator;
thread_local void *group_stream;

int add(bool sent, Address at, size_t count, int type, int peer, Communicator *handle, void *stream) {
    const char *call = sent ? "ncclSend" : "ncclRecv";
    auto c = find(handle);
    if (!c) return report(INVALID_ARGUMENT, "%s: no such communicator", call);
    if (c->state == IN_PROGRESS) return report(INVALID_ARGUMENT, "%s before the call before it is done", call);
    if (c->state != OK) return c->state;
    if (c->finalized) return report(INVALID_USAGE, "%s of a communicator that is finalized", call);
    if (peer < 0 || peer >= c->ranks) return report(INVALID_ARGUMENT, "%s: rank %d of %d", call, peer, c->ranks);
    if (size_of(type) == 0) return report(INVALID_ARGUMENT, "%s: no such type: %d", call, type);
    if (c->streamed && c->stream != stream) return report(INVALID_USAGE, "%s: a communicator is used from two streams", call);
    if (group_communicator && group_communicator != c) return report(INVALID_USAGE, "%s: one group uses two communicators", call);
    int capture = 0;
    if (cuStreamIsCapturing(stream, &capture) != SUCCESS) return report(INVALID_ARGUMENT, "%s: no such stream", call);
    if (capture != 0) return report(INVALID_USAGE, "%s while its stream is captured, which the emulator does not do", call);
    if (count > 0 && !emulator_reach(at, count * size_of(type), call)) return report(INVALID_ARGUMENT, "%s: not the device's memory", call);
    group_communicator = c;
    group_stream = stream;
    group.push_back({sent, peer, at, count, type, count * size_of(type)});
    return OK;
}

}  // namespace
}  // namespace emulated_nccl

using namespace emulated_nccl;

EXPORT int ncclGetVersion(int *version) { *version = 22703; return OK; }

EXPORT const char *ncclGetErrorString(int code) {
    switch (code) {
        case OK: return "no error";
        case CUDA_FAILED: return "unhandled cuda error";
        case SYSTEM: return "unhandled system error";
        case INVALID_ARGUMENT: return "invalid argument";
        case INVALID_USAGE: return "invalid usage";
        case REMOTE: return "remote process exited or there was a network error";
        case IN_PROGRESS: return "NCCL operation in progress";
        default: return "unknown result code";
    }
}

EXPORT const char *ncclGetLastError(Communicator *) {
    static thread_local std::string text;
    std::lock_guard<std::mutex> guard(registry_lock);
    text = last_error;
    return text.c_str();
}

EXPORT int ncclGetUniqueId(UniqueId *id) {
    const char *temporary = getenv("TMPDIR");
    *id = {MAGIC, {}};
    snprintf(id->folder, sizeof id->folder, "%s/emulated-nccl-XXXXXX", temporary && *temporary ? temporary : "/tmp");
    return mkdtemp(id->folder) ? int(OK) : report(SYSTEM, "%s: %s", id->folder, strerror(errno));
}

// As ncclConfig_t begins.
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

EXPORT int ncclCommInitRankConfig(Communicator **made, int ranks, UniqueId id, int rank, Config *config) {
    if (config && config->magic != 0xcafebeef) return report(INVALID_ARGUMENT, "the configuration was not initialised");
    if (id.magic != MAGIC) return report(INVALID_ARGUMENT, "the id is not ncclGetUniqueId's");
    if (ranks < 1 || rank < 0 || rank >= ranks) return report(INVALID_ARGUMENT, "rank %d of %d", rank, ranks);
    void *context = nullptr;
    cuCtxGetCurrent(&context);
    if (!context) return report(CUDA_FAILED, "the thread has no GPU");
    auto c = std::make_shared<Communicator>();
    c->rank = rank;
    c->ranks = ranks;
    c->folder = id.folder;
    c->sockets.assign(static_cast<size_t>(ranks), -1);
    c->state = IN_PROGRESS;
    give(c, [c = c.get(), context] {
        cuCtxSetCurrent(context);
        c->state = connect_all(*c);
    });
    c->thread = std::thread(work, c);
    *made = c.get();
    std::lock_guard<std::mutex> guard(registry_lock);
    registry[c.get()] = c;
    if (!config || config->blocking != 0) return report(INVALID_USAGE, "the emulated communicators never block");
    return IN_PROGRESS;
}

EXPORT int ncclCommGetAsyncError(Communicator *handle, int *code) {
    auto c = find(handle);
    if (!c) return report(INVALID_ARGUMENT, "ncclCommGetAsyncError: no such communicator");
    *code = c->state;
    return OK;
}

EXPORT int ncclCommFinalize(Communicator *handle) {
    auto c = find(handle);
    if (!c || c->finalized) return report(INVALID_ARGUMENT, "ncclCommFinalize: no such communicator");
    if (c->state != OK) return report(INVALID_ARGUMENT, "ncclCommFinalize before the call before it is done, or after an error");
    c->finalized = true;
    c->state = IN_PROGRESS;
    give(c, [c = c.get()] {
        if (c->streamed) cuStreamQuery(c->stream);
        int expected = IN_PROGRESS;
        c->state.compare_exchange_strong(expected, OK);
    });
    return IN_PROGRESS;
}

static int remove(Communicator *handle, bool abort, const char *call) {
    Shared c = find(handle);
    if (!c) return report(INVALID_ARGUMENT, "%s: no such communicator", call);
    if (!abort && c->state == IN_PROGRESS) return report(INVALID_ARGUMENT, "%s before the call before it is done", call);
    if (!abort && c->unfinished > 0) return report(INVALID_USAGE, "%s while exchanges stand in the stream", call);
    {
        std::lock_guard<std::mutex> guard(registry_lock);
        registry.erase(handle);
    }
    if (abort) c->aborted = true;
    end(c);
    return OK;
}

EXPORT int ncclCommDestroy(Communicator *handle) { return remove(handle, false, "ncclCommDestroy"); }
EXPORT int ncclCommAbort(Communicator *handle) { return remove(handle, true, "ncclCommAbort"); }

EXPORT int ncclGroupStart() {
    depth++;
    return OK;
}

EXPORT int ncclGroupEnd() {
    if (depth == 0) return report(INVALID_USAGE, "ncclGroupEnd without ncclGroupStart");
    if (--depth > 0) return OK;
    Shared c = std::move(group_communicator);
    std::vector<Message> messages = std::move(group);
    int error = group_error;
    group_communicator = nullptr;
    group.clear();
    group_error = OK;
    if (error != OK || !c) return error;
    auto exchange = new Exchange{c, std::move(messages)};
    c->unfinished++;
    c->streamed = true;
    c->stream = group_stream;
    c->state = IN_PROGRESS;
    give(c, [c = c.get(), exchange, stream = group_stream] {
        // Long enough for a caller to go on who should not.
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        int code = emulator_enqueue(stream, "ncclGroupEnd", run, drop, exchange);
        int expected = IN_PROGRESS;
        c->state.compare_exchange_strong(expected, code == SUCCESS ? OK : CUDA_FAILED);
    });
    return IN_PROGRESS;
}

static int single(bool sent, Address at, size_t count, int type, int peer, Communicator *handle, void *stream) {
    // A call outside a group is a group of its own.
    depth++;
    int code = add(sent, at, count, type, peer, handle, stream);
    if (code != OK) group_error = code;
    if (depth > 1) {
        depth--;
        return code;
    }
    return ncclGroupEnd();
}

EXPORT int ncclSend(Address from, size_t count, int type, int peer, Communicator *c, void *stream) {
    return single(true, from, count, type, peer, c, stream);
}
EXPORT int ncclRecv(Address to, size_t count, int type, int peer, Communicator *c, void *stream) {
    return single(false, to, count, type, peer, c, stream);
}
