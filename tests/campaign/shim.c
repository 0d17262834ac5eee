/* Counts the calls by which a program touches what lies in one folder, and lets one of them go wrong.
 *
 * Loaded before the C library (LD_PRELOAD). CAMPAIGN_UNDER is the folder; CAMPAIGN_LOG a file that gets a line for every
 * call: its number, its name, its path. At number CAMPAIGN_AT it does what CAMPAIGN_DO says:
 *   kill-before kill-middle kill-after   the process ends as by `kill -9`; in the middle of a write, half of it is written
 *   ENOSPC EIO EINTR                     the call fails so, once
 *   short                                half of it is read or written
 *   stop                                 the process is asked to end (SIGTERM)
 *   power                                the process ends after it; of what is not flushed the test takes something away
 *   full gone                            from there on the disk is full, or answers nothing but EIO
 *
 * Owns: that one call. Never: judges what the program does about it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

/* Longer paths are cut, and are then not in the folder. */
#define MOST 1024

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum action { PASS, FAIL, HALF, KILL_AFTER, KILL_MIDDLE };

static atomic_long count;

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* What of a call's effect needs room on the disk. */
enum needs { NOTHING, ROOM };

static int in_folder(const char *path) {
    const char *under = getenv("CAMPAIGN_UNDER");
    if (!under) return 0;
    size_t n = strlen(under);
    return strncmp(path, under, n) == 0 && (path[n] == 0 || path[n] == '/');
}

static void path_of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, out, MOST - 1);
    out[n < 0 ? 0 : n] = 0;
}

static void path_at(int dir, const char *path, char *out) {
    char base[MOST] = "";
    if (path[0] == '/') {
        snprintf(out, MOST, "%s", path);
        return;
    }
    if (dir == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        path_of_fd(dir, base);
    }
    size_t n = strlen(base);
    memcpy(out, base, n);
    snprintf(out + n, MOST - n, "/%s", path);
}

static void note(const char *log, long number, const char *what, const char *path) {
    char line[3 * MOST];
    int n = snprintf(line, sizeof line, "%ld %s %s\n", number, what, path);
    int fd = REAL(open64)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0 || REAL(write)(fd, line, (size_t)n) != n) abort();
    close(fd);
}

/* Notes how long a file is when a power failure would leave it so: under number 0, for it is no call. */
static void on_disk(int fd) {
    char full[MOST], size[32];
    struct stat64 found;
    const char *log = getenv("CAMPAIGN_LOG");
    path_of_fd(fd, full);
    if (!log || !in_folder(full) || fstat64(fd, &found)) return;
    snprintf(size, sizeof size, "%lld", (long long)found.st_size);
    note(log, 0, size, full);
}

/* Counts a call and says what becomes of it; with FAIL, errno is set. */
static enum action decide(const char *call, const char *path, enum needs needs) {
    if (!in_folder(path)) return PASS;
    long number = atomic_fetch_add(&count, 1) + 1;
    const char *log = getenv("CAMPAIGN_LOG"), *at = getenv("CAMPAIGN_AT"), *what = getenv("CAMPAIGN_DO");
    if (log) note(log, number, call, path);
    if (!at || !what) return PASS;
    long from = atol(at);
    if (!strcmp(what, "full") || !strcmp(what, "gone")) {
        int full = what[0] == 'f';
        if (number < from || (full && needs != ROOM)) return PASS;
        errno = full ? ENOSPC : EIO;
        return FAIL;
    }
    if (number != from) return PASS;
    if (!strcmp(what, "kill-before")) die();
    if (!strcmp(what, "stop")) {
        kill(getpid(), SIGTERM);
        return PASS;
    }
    if (!strcmp(what, "kill-middle")) return KILL_MIDDLE;
    if (!strcmp(what, "kill-after") || !strcmp(what, "power")) return KILL_AFTER;
    if (!strcmp(what, "short")) return HALF;
    errno = !strcmp(what, "ENOSPC") ? ENOSPC : !strcmp(what, "EIO") ? EIO : EINTR;
    return FAIL;
}

/* A call that is done whole or not at all. */
#define WHOLE(decided, failed, does)                                   \
    do {                                                               \
        enum action act = (decided);                                   \
        if (act == FAIL) return failed;                                \
        __typeof__(failed) result = (does);                            \
        if (act == KILL_AFTER || act == KILL_MIDDLE) die();            \
        return result;                                                 \
    } while (0)

/* A call that may do `size` bytes only in part. */
#define PART(decided, size, does_size)                                 \
    do {                                                               \
        enum action act = (decided);                                   \
        if (act == FAIL) return -1;                                    \
        size_t n = (act == HALF || act == KILL_MIDDLE) && (size) > 1 ? (size) / 2 : (size); \
        ssize_t result = does_size(n);                                 \
        if (act == KILL_AFTER || act == KILL_MIDDLE) die();            \
        return result;                                                 \
    } while (0)

static enum action opens(int dir, const char *path, int flags) {
    char full[MOST];
    path_at(dir, path, full);
    int writes = flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC);
    return decide(writes ? "create" : "open", full, flags & O_CREAT ? ROOM : NOTHING);
}

#define MODE                                                           \
    mode_t mode = 0;                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                               \
        va_list list;                                                  \
        va_start(list, flags);                                         \
        mode = va_arg(list, mode_t);                                   \
        va_end(list);                                                  \
    }

int open(const char *path, int flags, ...) {
    MODE
    WHOLE(opens(AT_FDCWD, path, flags), -1, REAL(open)(path, flags, mode));
}

int open64(const char *path, int flags, ...) {
    MODE
    WHOLE(opens(AT_FDCWD, path, flags), -1, REAL(open64)(path, flags, mode));
}

int openat(int dir, const char *path, int flags, ...) {
    MODE
    WHOLE(opens(dir, path, flags), -1, REAL(openat)(dir, path, flags, mode));
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE
    WHOLE(opens(dir, path, flags), -1, REAL(openat64)(dir, path, flags, mode));
}

static enum action on_fd(const char *call, int fd, enum needs needs) {
    char full[MOST];
    int before = errno;
    path_of_fd(fd, full);
    errno = before;
    return decide(call, full, needs);
}

ssize_t read(int fd, void *buffer, size_t size) {
#define DOES(n) REAL(read)(fd, buffer, n)
    PART(on_fd("read", fd, NOTHING), size, DOES);
#undef DOES
}

ssize_t pread64(int fd, void *buffer, size_t size, off64_t at) {
#define DOES(n) REAL(pread64)(fd, buffer, n, at)
    PART(on_fd("read", fd, NOTHING), size, DOES);
#undef DOES
}

ssize_t write(int fd, const void *buffer, size_t size) {
#define DOES(n) REAL(write)(fd, buffer, n)
    PART(on_fd("write", fd, ROOM), size, DOES);
#undef DOES
}

ssize_t pwrite64(int fd, const void *buffer, size_t size, off64_t at) {
#define DOES(n) REAL(pwrite64)(fd, buffer, n, at)
    PART(on_fd("write", fd, ROOM), size, DOES);
#undef DOES
}

ssize_t writev(int fd, const struct iovec *parts, int n_parts) {
    /* Half of it is its first part. */
    enum action act = on_fd("write", fd, ROOM);
    if (act == FAIL) return -1;
    ssize_t result = REAL(writev)(fd, parts, (act == HALF || act == KILL_MIDDLE) && n_parts > 1 ? 1 : n_parts);
    if (act == KILL_AFTER || act == KILL_MIDDLE) die();
    return result;
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
#define DOES(n) REAL(copy_file_range)(in, from, out, to, n, flags)
    PART(on_fd("write", out, ROOM), size, DOES);
#undef DOES
}

ssize_t sendfile64(int out, int in, off64_t *from, size_t size) {
#define DOES(n) REAL(sendfile64)(out, in, from, n)
    PART(on_fd("write", out, ROOM), size, DOES);
#undef DOES
}

static int flushed(int fd, int result) {
    if (!result) on_disk(fd);
    return result;
}

int fsync(int fd) { WHOLE(on_fd("fsync", fd, NOTHING), -1, flushed(fd, REAL(fsync)(fd))); }

int fdatasync(int fd) { WHOLE(on_fd("fsync", fd, NOTHING), -1, flushed(fd, REAL(fdatasync)(fd))); }

int ftruncate64(int fd, off64_t size) {
    WHOLE(on_fd("ftruncate", fd, NOTHING), -1, flushed(fd, REAL(ftruncate64)(fd, size)));
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t at) {
    /* Of a file; the loader and allocators map others. */
    WHOLE(flags & MAP_ANONYMOUS ? PASS : on_fd("mmap", fd, NOTHING), MAP_FAILED,
          REAL(mmap64)(address, size, protection, flags, fd, at));
}

static enum action on_path(const char *call, int dir, const char *path, enum needs needs) {
    char full[MOST];
    path_at(dir, path, full);
    return decide(call, full, needs);
}

int rename(const char *from, const char *to) {
    char full[2 * MOST];
    path_at(AT_FDCWD, from, full);
    size_t n = strlen(full);
    full[n] = '>';
    path_at(AT_FDCWD, to, full + n + 1);
    WHOLE(decide("rename", full, NOTHING), -1, REAL(rename)(from, to));
}

int unlink(const char *path) {
    WHOLE(on_path("unlink", AT_FDCWD, path, NOTHING), -1, REAL(unlink)(path));
}

int unlinkat(int dir, const char *path, int flags) {
    WHOLE(on_path("unlink", dir, path, NOTHING), -1, REAL(unlinkat)(dir, path, flags));
}

int rmdir(const char *path) { WHOLE(on_path("unlink", AT_FDCWD, path, NOTHING), -1, REAL(rmdir)(path)); }

int mkdir(const char *path, mode_t mode) {
    WHOLE(on_path("mkdir", AT_FDCWD, path, ROOM), -1, REAL(mkdir)(path, mode));
}
