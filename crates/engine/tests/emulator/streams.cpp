// Streams, events and graphs of the emulated driver.
//
// Work is queued, and runs only when something waits for it: the host, an event, or another stream. So a missing
// synchronisation shows, where a driver that worked at once would hide it. Streams do not wait for each other, except
// through events and, for blocking ones, the default stream.
//
// Owns: queues, events, captures. Never: knows what the work is.

#include <chrono>
#include <deque>
#include <map>
#include <set>
#include <thread>

#include "emulator.h"

namespace emu {

struct Node {
    Work work;
    Function *function;  // of a kernel
};

// Executable graphs have the nodes of the graph they were made from, by the same addresses.
struct Graph {
    std::vector<std::shared_ptr<Node>> nodes;
    std::map<Node *, Node> changed;
    const Graph *origin = nullptr;
};

struct Stream {
    bool blocking;
    std::deque<Work> queue;
    uint64_t issued = 0, done = 0;
    std::shared_ptr<Graph> capture;
    bool capture_broken = false;
    // Whose capture it is, and whether other threads may not do what a capture forbids.
    std::thread::id captured_by;
    bool captured_for_all = false;
};

struct Event {
    std::shared_ptr<Stream> stream;
    uint64_t position = 0;
    std::shared_ptr<double> time;
};

namespace {

// Longer queues run by themselves, so that memory stays bounded.
constexpr size_t LONGEST_QUEUE = 2000;

std::map<Handle, std::shared_ptr<Stream>> streams;
std::set<Event *> events;
std::set<Graph *> graphs, executables;

Stream &default_stream() {
    static auto stream = std::make_shared<Stream>(Stream{true, {}, 0, 0, nullptr, false, {}, false});
    streams[nullptr] = stream;
    return *stream;
}

std::shared_ptr<Stream> find(Handle handle) {
    default_stream();
    auto found = streams.find(handle);
    return found == streams.end() ? nullptr : found->second;
}

// Runs a stream's work up to a position in its queue.
int run_to(Stream &stream, uint64_t position) {
    while (stream.done < position && !stream.queue.empty()) {
        Work work = std::move(stream.queue.front());
        stream.queue.pop_front();
        stream.done++;
        // After an error the device does nothing more.
        if (sticky == SUCCESS) work();
    }
    return sticky;
}

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int enqueue(Handle handle, const char *call, Work work, Function *function) {
    auto stream = find(handle);
    if (!stream) return report(INVALID_HANDLE, "%s: no such stream", call);
    if (sticky != SUCCESS) return sticky;
    if (stream->capture) {
        stream->capture->nodes.push_back(std::make_shared<Node>(Node{std::move(work), function}));
        return SUCCESS;
    }
    // The default stream and the blocking ones take turns.
    if (handle == nullptr) {
        for (auto &[other, s] : streams) {
            if (other != nullptr && s->blocking) run_to(*s, s->issued);
        }
    } else if (stream->blocking) {
        run_to(default_stream(), default_stream().issued);
    }
    stream->queue.push_back(std::move(work));
    stream->issued++;
    if (stream->queue.size() > LONGEST_QUEUE) run_to(*stream, stream->issued);
    return SUCCESS;
}

bool capturing(Handle handle) {
    auto stream = find(handle);
    return stream && stream->capture;
}

// Stricter than the driver, which allows much of it to the capturing thread in its relaxed mode.
bool any_capture() {
    for (auto &[handle, stream] : streams) {
        if (stream->capture && (stream->captured_for_all || stream->captured_by == std::this_thread::get_id())) return true;
    }
    return false;
}

int synchronize(Handle handle) {
    auto stream = find(handle);
    if (!stream) return report(INVALID_HANDLE, "no such stream");
    if (stream->capture) {
        stream->capture_broken = true;
        return report(CAPTURE_UNSUPPORTED, "a stream is waited for while it is captured");
    }
    int code = run_to(*stream, stream->issued);
    return code == SUCCESS ? check_margins() : code;
}

int synchronize_all() {
    if (any_capture()) return report(CAPTURE_UNSUPPORTED, "the device is waited for while a stream is captured");
    return drain();
}

int drain() {
    for (auto &[handle, stream] : streams) run_to(*stream, stream->issued);
    return sticky;
}

Handle create_stream(bool blocking) {
    default_stream();
    auto stream = std::make_shared<Stream>(Stream{blocking, {}, 0, 0, nullptr, false, {}, false});
    streams[stream.get()] = stream;
    return stream.get();
}

int destroy_stream(Handle handle) {
    auto stream = find(handle);
    if (!stream || handle == nullptr) return report(INVALID_HANDLE, "no such stream");
    run_to(*stream, stream->issued);
    streams.erase(handle);
    return sticky;
}

}  // namespace emu

using namespace emu;
#define LOCKED std::lock_guard<std::recursive_mutex> guard(lock)

EXPORT int cuStreamWaitEvent(Handle handle, Event *event, unsigned) {
    LOCKED;
    if (!events.count(event)) return report(INVALID_HANDLE, "cuStreamWaitEvent: no such event");
    if (capturing(handle)) return report(CAPTURE_UNSUPPORTED, "the emulator captures one stream only");
    if (!event->stream) return SUCCESS;
    return enqueue(handle, "cuStreamWaitEvent", [stream = event->stream, position = event->position] {
        return run_to(*stream, position);
    });
}

EXPORT int cuStreamQuery(Handle handle) {
    LOCKED;
    auto stream = find(handle);
    if (!stream) return report(INVALID_HANDLE, "cuStreamQuery: no such stream");
    bool pending = stream->done < stream->issued;
    int code = run_to(*stream, stream->issued);
    return code != SUCCESS ? code : pending ? NOT_READY : SUCCESS;
}

EXPORT int cuEventCreate(Event **event, unsigned) {
    LOCKED;
    events.insert(*event = new Event);
    return SUCCESS;
}

EXPORT int cuEventRecord(Event *event, Handle handle) {
    LOCKED;
    if (!events.count(event)) return report(INVALID_HANDLE, "cuEventRecord: no such event");
    if (capturing(handle)) return report(CAPTURE_UNSUPPORTED, "the emulator captures no events");
    auto time = std::make_shared<double>(-1.0);
    int code = enqueue(handle, "cuEventRecord", [time] {
        *time = seconds();
        return int(SUCCESS);
    });
    if (code != SUCCESS) return code;
    event->stream = find(handle);
    event->position = event->stream->issued;
    event->time = time;
    return SUCCESS;
}

EXPORT int cuEventSynchronize(Event *event) {
    LOCKED;
    if (!events.count(event)) return report(INVALID_HANDLE, "cuEventSynchronize: no such event");
    return event->stream ? run_to(*event->stream, event->position) : SUCCESS;
}

EXPORT int cuEventQuery(Event *event) {
    LOCKED;
    if (!events.count(event)) return report(INVALID_HANDLE, "cuEventQuery: no such event");
    bool pending = event->stream && event->stream->done < event->position;
    int code = cuEventSynchronize(event);
    return code != SUCCESS ? code : pending ? NOT_READY : SUCCESS;
}

EXPORT int cuEventElapsedTime_v2(float *ms, Event *start, Event *end) {
    LOCKED;
    if (!events.count(start) || !events.count(end) || !start->time || !end->time) {
        return report(INVALID_HANDLE, "cuEventElapsedTime: no such event, or never recorded");
    }
    if (*start->time < 0 || *end->time < 0) return NOT_READY;
    *ms = static_cast<float>((*end->time - *start->time) * 1e3);
    return SUCCESS;
}

EXPORT int cuEventElapsedTime(float *ms, Event *start, Event *end) { return cuEventElapsedTime_v2(ms, start, end); }

EXPORT int cuEventDestroy_v2(Event *event) {
    LOCKED;
    if (events.erase(event) == 0) return report(INVALID_HANDLE, "cuEventDestroy: no such event");
    delete event;
    return SUCCESS;
}

EXPORT int cuStreamBeginCapture_v2(Handle handle, int mode) {
    LOCKED;
    auto stream = find(handle);
    if (!stream || handle == nullptr) return report(INVALID_HANDLE, "cuStreamBeginCapture: no stream of its own");
    if (stream->capture) return report(INVALID_VALUE, "cuStreamBeginCapture: it is captured already");
    stream->capture = std::make_shared<Graph>();
    stream->capture_broken = false;
    stream->captured_by = std::this_thread::get_id();
    stream->captured_for_all = mode == 0;  // CU_STREAM_CAPTURE_MODE_GLOBAL
    return SUCCESS;
}

EXPORT int cuStreamIsCapturing(Handle handle, int *status) {
    LOCKED;
    auto stream = find(handle);
    if (!stream) return report(INVALID_HANDLE, "cuStreamIsCapturing: no such stream");
    *status = !stream->capture ? 0 : stream->capture_broken ? 2 : 1;
    return SUCCESS;
}

EXPORT int cuStreamGetCaptureInfo_v3(Handle handle, int *status, uint64_t *id, Graph **graph, Node ***last, const void **edges,
                                     size_t *count) {
    LOCKED;
    static thread_local Node *node;  // what the caller reads after the lock is gone
    if (int code = cuStreamIsCapturing(handle, status)) return code;
    if (*status != 1) return SUCCESS;
    auto stream = find(handle);
    *id = 1;
    *graph = stream->capture.get();
    *count = stream->capture->nodes.empty() ? 0 : 1;
    if (*count == 1) node = stream->capture->nodes.back().get();
    *last = &node;
    *edges = nullptr;
    return SUCCESS;
}

EXPORT int cuStreamEndCapture(Handle handle, Graph **graph) {
    LOCKED;
    auto stream = find(handle);
    if (!stream || !stream->capture) return report(INVALID_VALUE, "cuStreamEndCapture: it is not captured");
    *graph = nullptr;
    auto captured = std::move(stream->capture);
    stream->capture = nullptr;
    if (stream->capture_broken) return CAPTURE_INVALIDATED;
    graphs.insert(*graph = new Graph(*captured));
    return SUCCESS;
}

EXPORT int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
    LOCKED;
    if (!graphs.count(graph)) return report(INVALID_VALUE, "cuGraphInstantiate: no such graph");
    executables.insert(*executable = new Graph(*graph));
    (*executable)->origin = graph;
    return SUCCESS;
}

// As CUDA_KERNEL_NODE_PARAMS_v2.
struct KernelParameters {
    Function *function;
    unsigned grid[3], block[3], dynamic_bytes;
    void **arguments, **extra;
    void *kernel, *context;
};

EXPORT int cuGraphExecKernelNodeSetParams_v2(Graph *executable, Node *node, const KernelParameters *p) {
    LOCKED;
    if (!executables.count(executable)) return report(INVALID_VALUE, "cuGraphExecKernelNodeSetParams: no such graph");
    if (!graphs.count(const_cast<Graph *>(executable->origin))) {
        return report(INVALID_VALUE, "cuGraphExecKernelNodeSetParams: the graph it was made from is gone, and its nodes with it");
    }
    for (auto &own : executable->nodes) {
        if (own.get() != node) continue;
        if (!node->function || p->function != node->function || p->extra) {
            return report(INVALID_VALUE, "cuGraphExecKernelNodeSetParams: not this kernel's node");
        }
        Work work;
        Dim3 grid{p->grid[0], p->grid[1], p->grid[2]}, block{p->block[0], p->block[1], p->block[2]};
        if (int code = prepare_launch(p->function, grid, block, p->dynamic_bytes, p->arguments, &work)) return code;
        executable->changed[node] = Node{std::move(work), p->function};
        return SUCCESS;
    }
    return report(INVALID_VALUE, "cuGraphExecKernelNodeSetParams: a node of another graph");
}

EXPORT int cuGraphUpload(Graph *executable, Handle) {
    LOCKED;
    return executables.count(executable) ? SUCCESS : report(INVALID_VALUE, "cuGraphUpload: no such graph");
}

EXPORT int cuGraphLaunch(Graph *executable, Handle stream) {
    LOCKED;
    if (!executables.count(executable)) return report(INVALID_VALUE, "cuGraphLaunch: no such graph");
    // The nodes are copied: the graph may be changed or destroyed while it is queued.
    std::vector<Node> nodes;
    for (auto &node : executable->nodes) {
        auto changed = executable->changed.find(node.get());
        nodes.push_back(changed == executable->changed.end() ? *node : changed->second);
        if (node->function) {
            if (int code = count_launch()) return code;
        }
    }
    return enqueue(stream, "cuGraphLaunch", [nodes = std::move(nodes)] {
        for (auto &node : nodes) {
            if (sticky == SUCCESS) node.work();
        }
        return sticky;
    });
}

EXPORT int cuGraphDestroy(Graph *graph) {
    LOCKED;
    if (graphs.erase(graph) == 0) return report(INVALID_VALUE, "cuGraphDestroy: no such graph");
    delete graph;
    return SUCCESS;
}

EXPORT int cuGraphExecDestroy(Graph *executable) {
    LOCKED;
    if (executables.erase(executable) == 0) return report(INVALID_VALUE, "cuGraphExecDestroy: no such graph");
    delete executable;
    return SUCCESS;
}
