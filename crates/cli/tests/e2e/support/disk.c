/* A disk with faults to order, between a program and the C library. The file named by FAKE_DISK holds one letter:
   f (full), r (read-only), s (fsync fails); anything else, or no file: a disk that works. Only database files fail. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char state(void)
{
    char letter = 0;
    const char *name = getenv("FAKE_DISK");
    int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    ssize_t got = read(fd, &letter, 1);
    close(fd);
    return got == 1 ? letter : 0;
}

static int is_database(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, "/midward.db") != NULL;
}

static int write_error(int fd)
{
    if (!is_database(fd))
        return 0;
    switch (state()) {
    case 'f': return ENOSPC;
    case 'r': return EROFS;
    default: return 0;
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF(error) do { int e = (error); if (e) { errno = e; return -1; } } while (0)

ssize_t write(int fd, const void *bytes, size_t count)
{
    FAIL_IF(write_error(fd));
    return REAL(write)(fd, bytes, count);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    FAIL_IF(write_error(fd));
    return REAL(pwrite)(fd, bytes, count, offset);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    FAIL_IF(write_error(fd));
    return REAL(pwrite64)(fd, bytes, count, offset);
}

int fsync(int fd)
{
    FAIL_IF(is_database(fd) && state() == 's' ? EIO : 0);
    return REAL(fsync)(fd);
}

int fdatasync(int fd)
{
    FAIL_IF(is_database(fd) && state() == 's' ? EIO : 0);
    return REAL(fdatasync)(fd);
}
