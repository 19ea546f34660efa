/* Preloaded into every process of a git command: calls on files below a folder named "theta" fail now and then.

   FAILING_IO: one call of so many fails; FAILING_IO_SEED: which ones; FAILING_IO_ERRNO: with which error. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static unsigned state;

static int unlucky(const char *path) {
    const char *every = getenv("FAILING_IO");
    if (!every || !path || !strstr(path, "/theta/")) return 0;
    if (!state) {
        const char *seed = getenv("FAILING_IO_SEED");
        state = (seed ? (unsigned)atoi(seed) : 1u) * 2654435761u + (unsigned)getpid() % 7u + 1u;
    }
    state = state * 1664525u + 1013904223u;
    if ((state >> 8) % (unsigned)atoi(every)) return 0;
    const char *number = getenv("FAILING_IO_ERRNO");
    errno = number ? atoi(number) : EIO;
    return 1;
}

static int unlucky_descriptor(int descriptor) {
    char link[64], path[4096];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length <= 0) return 0;
    path[length] = 0;
    return unlucky(path);
}

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name)                                              \
    int name(const char *path, int flags, ...) {                \
        va_list rest;                                           \
        va_start(rest, flags);                                  \
        mode_t mode = va_arg(rest, mode_t);                     \
        va_end(rest);                                           \
        REAL(int, #name, const char *, int, ...);               \
        return unlucky(path) ? -1 : real(path, flags, mode);    \
    }
OPEN(open)
OPEN(open64)

#define TRANSFER(name, buffer, ...)                                                        \
    ssize_t name(int descriptor, buffer data, size_t length __VA_OPT__(, ) __VA_ARGS__)

TRANSFER(read, void *) {
    REAL(ssize_t, "read", int, void *, size_t);
    return unlucky_descriptor(descriptor) ? -1 : real(descriptor, data, length);
}
TRANSFER(write, const void *) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return unlucky_descriptor(descriptor) ? -1 : real(descriptor, data, length);
}
TRANSFER(pread64, void *, off64_t offset) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    return unlucky_descriptor(descriptor) ? -1 : real(descriptor, data, length, offset);
}
TRANSFER(pwrite64, const void *, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return unlucky_descriptor(descriptor) ? -1 : real(descriptor, data, length, offset);
}

int fsync(int descriptor) {
    REAL(int, "fsync", int);
    return unlucky_descriptor(descriptor) ? -1 : real(descriptor);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return unlucky(from) || unlucky(to) ? -1 : real(from, to);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return unlucky(path) ? -1 : real(path);
}
