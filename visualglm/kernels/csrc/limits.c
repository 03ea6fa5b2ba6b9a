/* limits: reads memory and multiplies registers as fast as the machine can, for the benchmarks. */
#include "kernel.h"

#define PIECE (1 << 18)

typedef struct {
    const uint64_t *memory;
    size_t words;
    int next;
    uint64_t sum;
} reading;

static inline __attribute__((always_inline)) uint64_t sum_words(const uint64_t *words, size_t count) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) sum += words[i];
    return sum;
}

#if HAVE_X86
__attribute__((target("avx2"))) static uint64_t sum_words_avx2(const uint64_t *words, size_t count) {
    return sum_words(words, count);
}
#endif

static void read_pieces(void *data) {
    reading *r = data;
    size_t step = PIECE / sizeof(uint64_t);
    for (size_t from; (from = step * (size_t)next_piece(&r->next)) + step <= r->words;) {
        const uint64_t *words = r->memory + from;
        uint64_t sum;
#if HAVE_X86
        sum = kernel_path() >= PATH_AVX2 ? sum_words_avx2(words, step) : sum_words(words, step);
#else
        sum = sum_words(words, step);
#endif
        __atomic_fetch_add(&r->sum, sum, __ATOMIC_RELAXED);
    }
}

/* Reads all of `memory` once; the sum is returned so that no compiler leaves the reading out. */
uint64_t visualglm_read(const void *memory, size_t bytes, int threads) {
    reading r = {memory, bytes / sizeof(uint64_t), 0, 0};
    run_parallel(read_pieces, &r, threads);
    return r.sum;
}

#define ROUNDS (1 << 16)
#define PIECES 256

typedef struct {
    int next;
    int32_t sum;
} multiplying;

static void multiply_pieces(void *data) {
    multiplying *m = data;
    while (next_piece(&m->next) < PIECES) {
#if HAVE_X86
        __atomic_fetch_add(&m->sum, avx512_multiply(ROUNDS), __ATOMIC_RELAXED);
#endif
    }
}

/* Multiplies int8 registers with `vpdpbusd` alone; returns the number of products, or 0 where another path computes. */
int64_t visualglm_multiply(int threads) {
    if (kernel_path() != PATH_AVX512) return 0;
    multiplying m = {0, 0};
    run_parallel(multiply_pieces, &m, threads);
    return (int64_t)PIECES * ROUNDS * PRODUCTS_OF_ROUND;
}
