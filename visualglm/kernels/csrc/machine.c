/* machine: which path this processor takes, and the threads that share the work.
 *
 * Threads are those that torch computes with: the loader hands over the `GOMP_parallel` of torch's own OpenMP library, so
 * that there is one pool and its threads sleep when torch's do. Without it everything runs on the calling thread.
 */
#include "kernel.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define VERSION 4 /* of the interface; library.py refuses a library of another version */

typedef void (*parallel_function)(void (*work)(void *), void *data, unsigned threads, unsigned flags);

static parallel_function gomp_parallel;
static int path = -1;

int visualglm_version(void) { return VERSION; }

void visualglm_use_threads_of(parallel_function function) { gomp_parallel = function; }

void run_parallel(void (*work)(void *), void *data, int threads) {
    if (threads > 1 && gomp_parallel) gomp_parallel(work, data, (unsigned)threads, 0);
    else work(data);
}

static int best_path(void) {
#if HAVE_X86
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return PATH_AVX512;
    if (avx2) return PATH_AVX2;
#endif
    return PATH_PORTABLE;
}

int kernel_path(void) {
    if (path < 0) path = best_path();
    return path;
}

int visualglm_path(void) { return kernel_path(); }

/* Takes a slower path than the best one (-1: the best again); one that the processor lacks is not taken. */
void visualglm_use_path(int wanted) {
    int best = best_path();
    path = wanted < 0 || wanted > best ? best : wanted;
}

/* Asks for huge pages: a decoded token reads every weight once, and most of its misses are in the page table. */
void visualglm_huge_pages(void *memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    uintptr_t from = ((uintptr_t)memory + 4095) & ~(uintptr_t)4095, to = ((uintptr_t)memory + bytes) & ~(uintptr_t)4095;
    if (to > from) madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}
