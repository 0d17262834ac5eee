// The seam between the emulated NCCL's calls and what moves the bytes.
//
// Owns: declarations. Never: behaviour.

#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
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

namespace emulated_nccl {

// ncclResult_t.
enum Result : int { OK = 0, CUDA_FAILED = 1, SYSTEM = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6, IN_PROGRESS = 7 };

constexpr uint64_t MAGIC = 0x4c43434e4d554548;

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

// Messages that one group queued.
struct Exchange {
    Shared communicator;
    std::vector<Message> messages;
    ~Exchange() { communicator->unfinished--; }
};

// nccl.cpp
// Says on standard error what was done wrong, and returns `code`.
__attribute__((format(printf, 2, 3))) int report(int code, const char *text, ...);

// nccl_exchange.cpp
// Connects to the ranks below, and lets those above connect.
int connect_all(Communicator &c);
// An exchange when its turn in the stream has come, and its end.
int run(void *exchange);
void drop(void *exchange);

}  // namespace emulated_nccl
