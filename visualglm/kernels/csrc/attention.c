/* attention: one query per head over the filled part of the cache: softmax(q k / sqrt(d)) v, in float32 inside.
 *
 * A decoding step reads every key and value once; each (row, head) is one piece of work, summed in one order, so that the
 * bits depend neither on the number of threads nor on the other rows of the batch.
 */
#include <math.h>
#include <stdlib.h>

#include "kernel.h"
#include "vectors.h"

#define LARGEST_HEAD 512

typedef struct {
    const void *query, *key, *value; /* last dimension contiguous; strides in elements: row, head[, token] */
    const uint8_t *mask;             /* [batch, keys], 0 is not seen; NULL: all are */
    void *output;                    /* [batch, heads, head_dim] */
    float *scores;                   /* room for [batch, heads, keys] */
    int64_t query_strides[2], key_strides[3], value_strides[3], mask_stride;
    int dtype, batch, heads, keys, head_dim, next;
    float scaling;
} attention;

#define ABREAST 8 /* vectors of the result that stay in registers over all keys */

INLINE float dot(const float *restrict q, const void *restrict k, size_t at, const int dtype, int count) {
    vector sums = {0}, x, y;
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        load_vector(&x, q, i, FLOAT32);
        load_vector(&y, k, at + i, dtype);
        sums += x * y;
    }
    float sum = sum_of(&sums);
    for (; i < count; i++) sum += q[i] * load_number(k, at + i, dtype);
    return sum;
}

/* Columns `first` to `first + LANES * vectors` of weights * values, summed over all keys. */
INLINE void weigh_columns(const float *restrict weights, const void *restrict v, size_t at, int64_t stride, int keys,
                          int first, const int vectors, const int dtype, float *restrict result) {
    vector sums[ABREAST] = {{0}}, value;
    for (int s = 0; s < keys; s++) {
        if (weights[s] == 0) continue; /* what is not seen may be anything, NaN too */
        for (int i = 0; i < vectors; i++) {
            load_vector(&value, v, at + s * stride + first + i * LANES, dtype);
            sums[i] += weights[s] * value;
        }
    }
    __builtin_memcpy(result + first, sums, vectors * sizeof(vector));
}

INLINE void weigh(const float *restrict weights, const void *restrict v, size_t at, int64_t stride, int keys, int count,
                  const int dtype, float *restrict result) {
    int first = 0;
    for (; first + ABREAST * LANES <= count; first += ABREAST * LANES)
        weigh_columns(weights, v, at, stride, keys, first, ABREAST, dtype, result);
    for (; first + LANES <= count; first += LANES)
        weigh_columns(weights, v, at, stride, keys, first, 1, dtype, result);
    for (; first < count; first++) {
        float sum = 0;
        for (int s = 0; s < keys; s++)
            if (weights[s] != 0) sum += weights[s] * load_number(v, at + s * stride + first, dtype);
        result[first] = sum;
    }
}

static float softmax(float *scores, int count) { /* leaves exp(score - largest); returns their sum */
    float largest = -INFINITY, sum = 0;
    for (int s = 0; s < count; s++) largest = scores[s] > largest ? scores[s] : largest;
    for (int s = 0; s < count; s++) sum += scores[s] = scores[s] == -INFINITY ? 0 : expf(scores[s] - largest);
    return sum;
}

INLINE void one_head(const attention *a, int batch, int head, const int dtype) {
    float query[LARGEST_HEAD], sum[LARGEST_HEAD];
    float *scores = a->scores + ((size_t)batch * a->heads + head) * a->keys;
    size_t q = batch * a->query_strides[0] + head * a->query_strides[1];
    size_t k = batch * a->key_strides[0] + head * a->key_strides[1];
    size_t v = batch * a->value_strides[0] + head * a->value_strides[1];
    for (int i = 0; i < a->head_dim; i++) query[i] = load_number(a->query, q + i, dtype) * a->scaling;
    for (int s = 0; s < a->keys; s++) {
        int seen = !a->mask || a->mask[batch * a->mask_stride + s];
        scores[s] = seen ? dot(query, a->key, k + s * a->key_strides[2], dtype, a->head_dim) : -INFINITY;
    }
    float total = softmax(scores, a->keys);
    weigh(scores, a->value, v, a->value_strides[2], a->keys, a->head_dim, dtype, sum);
    size_t to = ((size_t)batch * a->heads + head) * a->head_dim;
    for (int i = 0; i < a->head_dim; i++) store_number(a->output, to + i, dtype, total ? sum[i] / total : 0);
}

INLINE void one_head_of(const attention *a, int piece) {
    if (a->dtype == BFLOAT16) one_head(a, piece / a->heads, piece % a->heads, BFLOAT16);
    else one_head(a, piece / a->heads, piece % a->heads, FLOAT32);
}

#if HAVE_X86
__attribute__((target("avx2,fma"))) static void one_head_avx2(const attention *a, int piece) { one_head_of(a, piece); }
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512"))) static void one_head_avx512(
    const attention *a, int piece) { one_head_of(a, piece); }
#endif

static void attend_heads(void *data) {
    attention *a = data;
    for (int piece; (piece = next_piece(&a->next)) < a->batch * a->heads;) {
#if HAVE_X86
        if (kernel_path() == PATH_AVX512) { one_head_avx512(a, piece); continue; }
        if (kernel_path() == PATH_AVX2) { one_head_avx2(a, piece); continue; }
#endif
        one_head_of(a, piece);
    }
}

/* Returns 0, or 1 where there is no memory or the heads are too large. */
int visualglm_attend(const void *query, const void *key, const void *value, const uint8_t *mask, void *output,
                     const int64_t *strides, int dtype, int batch, int heads, int keys, int head_dim, float scaling,
                     int threads) {
    if (head_dim > LARGEST_HEAD) return 1;
    float *scores = malloc(sizeof(float) * batch * heads * keys + 1);
    if (!scores) return 1;
    attention a = {query, key, value, mask, output, scores, {strides[0], strides[1]},
                   {strides[2], strides[3], strides[4]}, {strides[5], strides[6], strides[7]}, strides[8],
                   dtype, batch, heads, keys, head_dim, 0, scaling};
    run_parallel(attend_heads, &a, (size_t)batch * heads * keys * head_dim < 65536 ? 1 : threads);
    free(scores);
    return 0;
}
