"""A wrong clock for the processes of a host: the time of day is shifted, no other clock is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SHIFTED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t shift(void) {
    const char *given = getenv("CLOCK_AHEAD");
    return given ? atol(given) : 0;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (!code && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int code = real(now, zone);
    if (!code) now->tv_sec += shift();
    return code;
}

time_t time(time_t *out) {
    struct timeval now;
    gettimeofday(&now, NULL);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


def ahead(folder: Path, seconds: int) -> dict[str, str]:
    """Variables of processes whose clock is so many seconds ahead; skips without a compiler.

    folder: where the library is put.
    """
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler is installed, for a clock that is wrong")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(SHIFTED)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    os.chmod(library, 0o755)
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(seconds)}
