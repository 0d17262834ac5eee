// The C interface of the emulated NCCL, `libnccl.so.2`: processes of this machine, each with an emulated GPU, exchange
// through Unix sockets, one between each two ranks, in a folder that the unique id names.
//
// As in the library that it stands for: calls of a communicator that does not block go on in a thread of the library, and
// nothing may be asked of it meanwhile; an exchange is work of its stream, which moves nothing before its turn and holds up
// what comes behind; messages between two ranks are matched in their order; what is lost hangs until it is aborted. Beyond it:
// lengths and types that do not match are errors, and what hangs for longer than HEADSTART_EMULATOR_NCCL_TIMEOUT_MS (30 s) is.
// A GPU works while its host does not look: so the library's thread runs a stream that holds exchanges, a little later.
//
// Owns: communicators, connections, messages. Never: collectives, of which the engine uses none.

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "abi.h"

// Of the emulated driver.
extern "C" {
void *emulator_reach(Address address, uint64_t bytes, const char *what);
int emulator_enqueue(void *stream, const char *call, int (*work)(void *), void (*drop)(void *), void *data);
int emulator_broken(int code, const char *what);
int cuCtxGetCurrent(void **);
int cuCtxSetCurrent(void *);
int cuStreamIsCapturing(void *, int *);
int cuStreamQuery(void *);
}

namespace {

// ncclResult_t.
enum Result : int { OK = 0, CUDA_FAILED = 1, SYSTEM = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6, IN_PROGRESS = 7 };

using Clock = std::chrono::steady_clock;
constexpr auto LATER = std::chrono::milliseconds(20);  // when a stream is run whose host does not wait for it
constexpr uint64_t MAGIC = 0x4c43434e4d554548;

Clock::time_point deadline() {
    const char *text = getenv("HEADSTART_EMULATOR_NCCL_TIMEOUT_MS");
    return Clock::now() + std::chrono::milliseconds(text && *text ? atol(text) : 30000);
}

struct UniqueId {
    uint64_t magic;
    char folder[120];
};

struct Message {
    bool sent;
    int peer;
    Address at;
    uint64_t count;
    int type;
    uint64_t bytes;
};

// What stands before a message on its way.
struct Header {
    uint64_t magic, count;
    int64_t type;
};

struct Communicator {
    int rank, ranks;
    std::string folder;
    std::vector<int> sockets;  // to each rank; -1 to itself
    std::atomic<int> state{OK};
    std::atomic<bool> aborted{false};
    std::atomic<int> unfinished{0};  // exchanges that stand in the stream
    bool finalized = false;
    bool streamed = false;
    void *stream = nullptr;
    // The library's thread, and what it is to do.
    std::mutex lock;
    std::condition_variable woken;
    std::deque<std::function<void()>> tasks;
    bool ending = false;
    std::thread thread;

    ~Communicator() {
        for (int socket : sockets) {
            if (socket >= 0) close(socket);
        }
    }
};

using Shared = std::shared_ptr<Communicator>;

// Never destroyed: threads may still ask while the process ends.
std::mutex &registry_lock = *new std::mutex;
std::map<Communicator *, Shared> &registry = *new std::map<Communicator *, Shared>;
std::string &last_error = *new std::string;

Shared find(Communicator *handle) {
    std::lock_guard<std::mutex> guard(registry_lock);
    auto found = registry.find(handle);
    return found == registry.end() ? nullptr : found->second;
}

std::string format(const char *text, va_list list) {
    char room[512];
    vsnprintf(room, sizeof room, text, list);
    return room;
}

// Says on standard error what was done wrong, and returns `code`.
__attribute__((format(printf, 2, 3))) int report(int code, const char *text, ...) {
    va_list list;
    va_start(list, text);
    std::string message = format(text, list);
    va_end(list);
    fprintf(stderr, "emulated NCCL: %s\n", message.c_str());
    std::lock_guard<std::mutex> guard(registry_lock);
    last_error = message;
    return code;
}

// The same for work of the device, which is of no use from then on.
__attribute__((format(printf, 1, 2))) int broken(const char *text, ...) {
    va_list list;
    va_start(list, text);
    std::string message = format(text, list);
    va_end(list);
    report(OK, "%s", message.c_str());
    return emulator_broken(LAUNCH_FAILED, message.c_str());
}

uint64_t size_of(int type) {
    switch (type) {
        case 0: case 1: case 10: case 11: return 1;
        case 2: case 3: case 7: return 4;
        case 4: case 5: case 8: return 8;
        case 6: case 9: return 2;
        default: return 0;
    }
}

// ---- connections ----

bool transfer(int socket, void *data, size_t bytes, bool send_it, const Communicator &c, Clock::time_point end) {
    auto p = static_cast<char *>(data);
    while (bytes > 0) {
        if (c.aborted || Clock::now() > end) return false;
        pollfd waiting{socket, static_cast<short>(send_it ? POLLOUT : POLLIN), 0};
        if (poll(&waiting, 1, 10) <= 0) continue;
        ssize_t n = send_it ? send(socket, p, bytes, MSG_NOSIGNAL) : recv(socket, p, bytes, 0);
        if (n <= 0) return false;
        p += n;
        bytes -= static_cast<size_t>(n);
    }
    return true;
}

sockaddr_un address_of(const std::string &folder, int rank) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%d", folder.c_str(), rank);
    return address;
}

int connect_to(const Communicator &c, int peer, Clock::time_point end) {
    auto address = address_of(c.folder, peer);
    while (!c.aborted && Clock::now() < end) {
        int socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(socket, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0) return socket;
        close(socket);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return -1;
}

// Connects to the ranks below, and lets those above connect.
int connect_all(Communicator &c) {
    auto end = deadline();
    auto own = address_of(c.folder, c.rank);
    int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listening, reinterpret_cast<sockaddr *>(&own), sizeof own) != 0 || listen(listening, c.ranks) != 0) {
        close(listening);
        return report(INVALID_USAGE, "rank %d exists already, or %s is gone: %s", c.rank, c.folder.c_str(), strerror(errno));
    }
    int code = OK;
    int32_t hello[2] = {c.rank, c.ranks};
    for (int peer = 0; peer < c.rank && code == OK; peer++) {
        int socket = c.sockets[static_cast<size_t>(peer)] = connect_to(c, peer, end);
        if (socket < 0 || !transfer(socket, hello, sizeof hello, true, c, end)) {
            code = c.aborted ? REMOTE : report(REMOTE, "rank %d waited in vain for rank %d", c.rank, peer);
        }
    }
    for (int missing = c.ranks - 1 - c.rank; missing > 0 && code == OK;) {
        pollfd waiting{listening, POLLIN, 0};
        if (c.aborted || Clock::now() > end) {
            code = c.aborted ? REMOTE : report(REMOTE, "rank %d waited in vain for %d others", c.rank, missing);
        } else if (poll(&waiting, 1, 10) > 0) {
            int socket = accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
            int32_t theirs[2] = {-1, -1};
            bool whole = transfer(socket, theirs, sizeof theirs, false, c, end);
            if (!whole || theirs[1] != c.ranks || theirs[0] <= c.rank || theirs[0] >= c.ranks ||
                c.sockets[static_cast<size_t>(theirs[0])] >= 0) {
                close(socket);
                code = report(INVALID_ARGUMENT, "rank %d of %d met one that says it is %d of %d", c.rank, c.ranks, theirs[0], theirs[1]);
            } else {
                c.sockets[static_cast<size_t>(theirs[0])] = socket;
                missing--;
            }
        }
    }
    close(listening);
    unlink(own.sun_path);
    rmdir(c.folder.c_str());  // by whoever is the last
    return code;
}

// ---- exchanges ----

struct Exchange {
    Shared communicator;
    std::vector<Message> messages;
    ~Exchange() { communicator->unfinished--; }
};

// One direction of one connection: messages, one after the other, each behind its header.
struct Lane {
    int peer;
    std::vector<Message> messages;
    size_t current = 0;
    uint64_t done = 0;  // bytes of the current one, header included
    Header header{};
    bool closed = false;

    bool finished() const { return current == messages.size(); }
};

// Moves what can be moved now; the text of an error.
std::string move(Lane &lane, int socket, bool send_it, bool *gone) {
    while (!lane.finished()) {
        Message &m = lane.messages[lane.current];
        if (lane.done == 0 && send_it) lane.header = {MAGIC, m.count, m.type};
        bool heading = lane.done < sizeof(Header);
        void *memory = emulator_reach(m.at, m.bytes, send_it ? "ncclSend" : "ncclRecv");
        if (!memory) return "the memory of an exchange was freed before it ran";
        char *p = heading ? reinterpret_cast<char *>(&lane.header) + lane.done : static_cast<char *>(memory) + (lane.done - sizeof(Header));
        size_t left = heading ? sizeof(Header) - lane.done : m.bytes + sizeof(Header) - lane.done;
        if (left > 0) {
            ssize_t n = send_it ? send(socket, p, left, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(socket, p, left, MSG_DONTWAIT);
            if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return "";
            if (n <= 0) {
                *gone = lane.closed = true;
                return "";
            }
            lane.done += static_cast<uint64_t>(n);
        }
        if (!send_it && lane.done == sizeof(Header) &&
            (lane.header.magic != MAGIC || lane.header.count != m.count || lane.header.type != m.type)) {
            return "ncclRecv of " + std::to_string(m.count) + " elements of type " + std::to_string(m.type) + " from rank " +
                   std::to_string(lane.peer) + ", which sends " + std::to_string(lane.header.count) + " of type " +
                   std::to_string(lane.header.type);
        }
        if (lane.done == sizeof(Header) + m.bytes) {
            lane.current++;
            lane.done = 0;
        }
    }
    return "";
}

// What a rank sends to itself.
std::string move_within(const std::vector<Message> &sends, const std::vector<Message> &receives) {
    if (sends.size() != receives.size()) return "sends to itself and receives from itself differ in number";
    for (size_t i = 0; i < sends.size(); i++) {
        if (sends[i].count != receives[i].count || sends[i].type != receives[i].type) return "a send to itself differs from its receive";
        void *from = emulator_reach(sends[i].at, sends[i].bytes, "ncclSend"), *to = emulator_reach(receives[i].at, receives[i].bytes, "ncclRecv");
        if (!from || !to) return "the memory of an exchange was freed before it ran";
        memmove(to, from, sends[i].bytes);
    }
    return "";
}

std::string waiting_for(const std::vector<Lane> &lanes, const char *what) {
    std::string text;
    for (auto &lane : lanes) {
        if (!lane.finished()) text += std::string(", ") + what + " rank " + std::to_string(lane.peer);
    }
    return text;
}

// An exchange when its turn in the stream has come.
int run(void *data) {
    auto &exchange = *static_cast<Exchange *>(data);
    Communicator &c = *exchange.communicator;
    std::vector<Lane> lanes[2];
    for (int peer = 0; peer < c.ranks; peer++) {
        for (int sent : {0, 1}) {
            Lane lane{peer, {}};
            for (auto &m : exchange.messages) {
                if (m.peer == peer && m.sent == (sent == 1)) lane.messages.push_back(m);
            }
            lanes[sent].push_back(std::move(lane));
        }
    }
    auto itself = static_cast<size_t>(c.rank);
    std::string error = move_within(lanes[1][itself].messages, lanes[0][itself].messages);
    for (auto &side : lanes) side[itself].messages.clear();
    auto end = deadline();
    while (error.empty() && !c.aborted) {
        std::vector<pollfd> waiting;
        for (int sent : {0, 1}) {
            for (auto &lane : lanes[sent]) {
                if (lane.finished() || lane.closed) continue;
                int socket = c.sockets[static_cast<size_t>(lane.peer)];
                bool gone = false;
                error = move(lane, socket, sent == 1, &gone);
                if (!error.empty()) return broken("rank %d: %s", c.rank, error.c_str());
                // From here on it hangs, until somebody aborts it.
                if (gone) c.state = report(REMOTE, "rank %d: rank %d closed its connection", c.rank, lane.peer);
                if (!lane.finished() && !lane.closed) waiting.push_back({socket, static_cast<short>(sent ? POLLOUT : POLLIN), 0});
            }
        }
        std::string missing = waiting_for(lanes[1], "to send to") + waiting_for(lanes[0], "to receive from");
        if (missing.empty()) return SUCCESS;
        if (Clock::now() > end) error = "an exchange hangs, and nobody aborts it: it waits" + missing;
        poll(waiting.data(), waiting.size(), 5);
    }
    return error.empty() ? int(SUCCESS) : broken("rank %d: %s", c.rank, error.c_str());
}

void drop(void *data) { delete static_cast<Exchange *>(data); }

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
