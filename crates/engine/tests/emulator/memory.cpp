// The emulated device's memory.
//
// The addresses that are handed out lie in a range that nobody can read or write; the data lies elsewhere, at a fixed
// distance. So host code that follows a device pointer faults at once. Each allocation ends at a page that cannot be
// touched, and freed memory cannot be touched either: a kernel that runs over an end, or uses what is freed, faults
// (launch.cpp catches that). Fresh memory is NaN in f32 and bf16 (all bits set). Addresses are not used twice.
//
// Owns: allocations, their bounds, the limit. Never: knows of streams or kernels.

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "emulator.h"

namespace emu {
namespace {

constexpr uint64_t RANGE = 1ull << 38;
constexpr size_t PAGE = 4096;
constexpr size_t ALIGNMENT = 256;  // what cuMemAlloc promises
constexpr unsigned char MARGIN = 0xa5;

struct Allocation {
    size_t bytes;
    char *pages;  // where its pages begin
    size_t span;  // their bytes, without the guard page
};

struct Arena {
    char *data, *handed_out;
    uint64_t used = 0;  // bytes of the range given out so far
    Arena() {
        auto reserve = [] {
            void *p = mmap(nullptr, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (p == MAP_FAILED) {
                perror("emulator: no address space");
                abort();
            }
            return static_cast<char *>(p);
        };
        data = reserve();
        handed_out = reserve();
    }
};

Arena &arena() {
    static Arena *arena = new Arena;
    return *arena;
}

std::map<Address, Allocation> live;
std::map<const char *, size_t> pinned;
size_t live_bytes = 0;

char *host(Address address) { return arena().data + (address - reinterpret_cast<Address>(arena().handed_out)); }

Address address_of(const char *host) {
    return reinterpret_cast<Address>(arena().handed_out) + static_cast<uint64_t>(host - arena().data);
}

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// The allocation that holds `address`, or the nearest one below it.
std::map<Address, Allocation>::iterator at_or_below(Address address) {
    auto next = live.upper_bound(address);
    return next == live.begin() ? live.end() : std::prev(next);
}

// Whether the bytes around an allocation that belong to nobody, up to the page ends, still hold their pattern. It is
// made good again, so that each damage is told once.
bool margins_hold(Address address, const Allocation &a) {
    char *begin = host(address);
    bool whole = true;
    auto mend = [&](char *from, char *to) {
        for (; from < to; from++) {
            whole = whole && static_cast<unsigned char>(*from) == MARGIN;
            *from = static_cast<char>(MARGIN);
        }
    };
    mend(a.pages, begin);
    mend(begin + a.bytes, a.pages + a.span);
    return whole;
}

int check_one(Address address, const Allocation &a) {
    if (margins_hold(address, a)) return SUCCESS;
    return broken(ILLEGAL_ADDRESS, "something wrote beside an allocation of " + std::to_string(a.bytes) + " bytes");
}

}  // namespace

int allocate(size_t bytes, Address *address) {
    if (bytes == 0) return report(INVALID_VALUE, "an allocation of 0 bytes");
    if (bytes > settings.memory_bytes || live_bytes > settings.memory_bytes - bytes) return OUT_OF_MEMORY;
    size_t room = round_up(bytes, ALIGNMENT), span = round_up(room, PAGE);
    if (arena().used + span + PAGE > RANGE) return report(OUT_OF_MEMORY, "the emulator's address range is used up");
    char *pages = arena().data + arena().used;
    if (mprotect(pages, span, PROT_READ | PROT_WRITE) != 0) return report(OUT_OF_MEMORY, "the host has no memory");
    arena().used += span + PAGE;
    char *begin = pages + span - room;
    memset(pages, MARGIN, span);
    memset(begin, 0xff, bytes);
    *address = address_of(begin);
    live[*address] = {bytes, pages, span};
    live_bytes += bytes;
    return SUCCESS;
}

int release(Address address) {
    auto found = live.find(address);
    if (found == live.end()) return report(INVALID_VALUE, "0x%llx is freed, but is no allocation", (unsigned long long)address);
    Allocation a = found->second;
    int code = check_one(address, a);
    // The pages go back to the host; the range stays out of reach.
    mmap(a.pages, a.span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    live.erase(found);
    live_bytes -= a.bytes;
    return code;
}

int check_margins() {
    for (auto &[address, a] : live) check_one(address, a);
    return sticky;
}

void memory_info(size_t *free, size_t *total) {
    *total = settings.memory_bytes;
    *free = settings.memory_bytes > live_bytes ? settings.memory_bytes - live_bytes : 0;
}

bool is_device(uint64_t address) {
    auto begin = reinterpret_cast<uint64_t>(arena().handed_out);
    return address >= begin && address < begin + RANGE;
}

bool in_guarded(const void *p) {
    auto c = static_cast<const char *>(p);
    return (c >= arena().data && c < arena().data + RANGE) || is_device(reinterpret_cast<uint64_t>(p));
}

void *reach(Address address, uint64_t bytes, const char *what) {
    auto found = at_or_below(address);
    if (found != live.end()) {
        uint64_t offset = address - found->first;
        if (offset <= found->second.bytes && bytes <= found->second.bytes - offset) return host(address);
    }
    std::string place = is_device(address) ? describe(host(address)) : "no device memory";
    report(INVALID_VALUE, "%s: %llu bytes at 0x%llx: %s", what, (unsigned long long)bytes, (unsigned long long)address,
           place.c_str());
    return nullptr;
}

void *reach_start(Address address, const char *what) { return reach(address, 0, what); }

std::string describe(const void *p) {
    auto c = static_cast<const char *>(p);
    if (is_device(reinterpret_cast<uint64_t>(p))) return "a device address, followed outside a kernel";
    if (!in_guarded(p)) return "no device memory";
    auto found = at_or_below(address_of(c));
    if (found == live.end()) return "memory that was freed, or before every allocation";
    uint64_t offset = address_of(c) - found->first;
    std::string size = std::to_string(found->second.bytes);
    if (offset < found->second.bytes) return "byte " + std::to_string(offset) + " of an allocation of " + size + " bytes";
    if (offset < found->second.bytes + PAGE) {
        return std::to_string(offset - found->second.bytes) + " bytes behind the end of an allocation of " + size + " bytes";
    }
    return "memory that was freed";
}

void *pinned_allocate(size_t bytes) {
    auto p = static_cast<char *>(mmap(nullptr, round_up(bytes, PAGE), PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED) return nullptr;
    memset(p, 0xff, bytes);
    pinned[p] = bytes;
    return p;
}

bool pinned_release(void *p) {
    auto found = pinned.find(static_cast<char *>(p));
    if (found == pinned.end()) return false;
    munmap(p, round_up(found->second, PAGE));
    pinned.erase(found);
    return true;
}

bool is_pinned(const void *p, size_t bytes) {
    auto c = static_cast<const char *>(p);
    auto next = pinned.upper_bound(c);
    if (next == pinned.begin()) return false;
    auto &[begin, size] = *std::prev(next);
    return static_cast<size_t>(c - begin) + bytes <= size;
}

}  // namespace emu
