// Connections between the emulated NCCL's ranks, and the messages on them.
//
// Owns: sockets, the order of messages, what hangs and for how long. Never: calls, groups, threads (nccl.cpp).

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "nccl.h"

namespace emulated_nccl {
namespace {

using Clock = std::chrono::steady_clock;

// What stands before a message on its way.
struct Header {
    uint64_t magic, count;
    int64_t type;
};

Clock::time_point deadline() {
    const char *text = getenv("HEADSTART_EMULATOR_NCCL_TIMEOUT_MS");
    return Clock::now() + std::chrono::milliseconds(text && *text ? atol(text) : 30000);
}

// Says what went wrong on the device, which is of no use from then on.
__attribute__((format(printf, 1, 2))) int broken(const char *text, ...) {
    char message[512];
    va_list list;
    va_start(list, text);
    vsnprintf(message, sizeof message, text, list);
    va_end(list);
    report(OK, "%s", message);
    return emulator_broken(LAUNCH_FAILED, message);
}

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

}  // namespace

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

namespace {

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

}  // namespace

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

}  // namespace emulated_nccl
