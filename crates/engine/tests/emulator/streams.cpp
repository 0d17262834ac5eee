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

#include "emulator.h"

namespace emu {

struct Graph {
    std::vector<Work> nodes;
};

struct Stream {
    bool blocking;
    std::deque<Work> queue;
    uint64_t issued = 0, done = 0;
    std::shared_ptr<Graph> capture;
    bool capture_broken = false;
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
    static auto stream = std::make_shared<Stream>(Stream{true, {}, 0, 0, nullptr, false});
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

int enqueue(Handle handle, const char *call, Work work) {
    auto stream = find(handle);
    if (!stream) return report(INVALID_HANDLE, "%s: no such stream", call);
    if (sticky != SUCCESS) return sticky;
    if (stream->capture) {
        stream->capture->nodes.push_back(std::move(work));
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

bool any_capture() {
    for (auto &[handle, stream] : streams) {
        if (stream->capture) return true;
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
    auto stream = std::make_shared<Stream>(Stream{blocking, {}, 0, 0, nullptr, false});
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

EXPORT int cuStreamBeginCapture_v2(Handle handle, int) {
    LOCKED;
    auto stream = find(handle);
    if (!stream || handle == nullptr) return report(INVALID_HANDLE, "cuStreamBeginCapture: no stream of its own");
    if (stream->capture) return report(INVALID_VALUE, "cuStreamBeginCapture: it is captured already");
    stream->capture = std::make_shared<Graph>();
    stream->capture_broken = false;
    return SUCCESS;
}

EXPORT int cuStreamIsCapturing(Handle handle, int *status) {
    LOCKED;
    auto stream = find(handle);
    if (!stream) return report(INVALID_HANDLE, "cuStreamIsCapturing: no such stream");
    *status = !stream->capture ? 0 : stream->capture_broken ? 2 : 1;
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
    return SUCCESS;
}

EXPORT int cuGraphUpload(Graph *executable, Handle) {
    LOCKED;
    return executables.count(executable) ? SUCCESS : report(INVALID_VALUE, "cuGraphUpload: no such graph");
}

EXPORT int cuGraphLaunch(Graph *executable, Handle stream) {
    LOCKED;
    if (!executables.count(executable)) return report(INVALID_VALUE, "cuGraphLaunch: no such graph");
    // The nodes are copied: the graph may be destroyed while it is queued.
    return enqueue(stream, "cuGraphLaunch", [nodes = executable->nodes] {
        for (auto &node : nodes) {
            if (sticky == SUCCESS) node();
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
