// The compiled module's side of abi.h, for a source that may see no standard header.
//
// Owns: the variables that the driver sets for each thread, block and launch. Never: what kernels call (device.h).

#pragma once

typedef unsigned long size_t;

namespace emulator {
struct Size { unsigned x, y, z; };
struct ThreadView { Size thread_index, block_index; };
struct Calls {
    void (*sync_block)(int line, int vote, int predicate, int *result);
    unsigned long (*exchange)(int line, int kind, unsigned mask, unsigned long value, unsigned argument, unsigned width);
    void *(*dynamic_shared)();
};
// Not thread-local: each worker has a copy of the module to itself.
static Calls calls;
static const ThreadView *current;
static Size block_size, grid_size;

struct Kernel {
    const char *name;
    void (*call)(void **);
    unsigned parameters;
    const unsigned char *sizes, *pointers;
    unsigned max_threads;
};
struct Module {
    unsigned abi, kernel_count;
    const Kernel *kernels;
    Calls *calls;
    const ThreadView **current;
    Size *block_size, *grid_size;
    char *shared_begin, *shared_end;
};

// What a kernel's type says of its parameters, and a call with an array of pointers to them.
template <class T> struct IsPointer { enum { value = 0 }; };
template <class T> struct IsPointer<T *> { enum { value = 1 }; };
template <class T> struct IsPointer<T *__restrict__> { enum { value = 1 }; };
template <class T> struct Plain { typedef T type; };
template <class T> struct Plain<const T> { typedef T type; };
template <int... I> struct Numbers {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Numbers<I...> type; };
template <class... A> struct Parameters {
    enum { count = sizeof...(A) };
    static constexpr unsigned char sizes[] = {sizeof(A)..., 0};
    static constexpr unsigned char pointers[] = {IsPointer<typename Plain<A>::type>::value..., 0};
    template <void (*F)(A...), int... I> static void call(void **p, Numbers<I...>) { F(*(A *)p[I]...); }
};
template <class... A> Parameters<A...> parameters_of(void (*)(A...));
template <auto F> void call(void **p) {
    typedef decltype(parameters_of(F)) P;
    P::template call<F>(p, typename Count<P::count>::type());
}
template <auto F> constexpr Kernel describe(const char *name, unsigned max_threads) {
    typedef decltype(parameters_of(F)) P;
    return {name, call<F>, P::count, P::sizes, P::pointers, max_threads};
}
}  // namespace emulator

extern "C" char __start_emulator_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_emulator_shared[] __attribute__((weak, visibility("hidden")));
