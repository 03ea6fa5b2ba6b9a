/* arrange: the stored layout of a linear's weights <-> the layout that the kernel reads (kernel.h), without loss.
 *
 * Stored int4: byte k of a row holds input 2k in its low and 2k + 1 in its high nibble, each + 8; float16 scale per group.
 * Stored int8: [outputs, inputs]. Rows and inputs that fill up the last block are zeros.
 */
#include <string.h>

#include "kernel.h"

size_t visualglm_int4_bytes(int outputs, int inputs, int group);
size_t visualglm_int8_bytes(int outputs, int inputs);

typedef struct {
    uint8_t *stored, *arranged;
    uint16_t *scales;
    int outputs, inputs, group, back, next_block; /* inputs: as stored, so a multiple of the group for int4 */
} arrangement;

#define STRETCH 8 /* groups of a row that are moved before those of the next row */

/* Exchanges the bits of `mask` with those `distance` above them. */
static uint32_t exchange(uint32_t bits, int distance, uint32_t mask) {
    uint32_t changed = (bits ^ bits >> distance) & mask;
    return bits ^ changed ^ changed << distance;
}

/* The nibbles 0 1 2 3 4 5 6 7 of a stored word as the kernel reads them: 0 4 1 5 2 6 3 7. */
static uint32_t shuffle(uint32_t stored) { return exchange(exchange(stored, 8, 0x0000ff00u), 4, 0x00f000f0u); }
static uint32_t unshuffle(uint32_t word) { return exchange(exchange(word, 4, 0x00f000f0u), 8, 0x0000ff00u); }

/* Moves groups `first` to `end` of a row, at most STRETCH: their scales, and 8 inputs at a time. */
static void move_int4_groups(const arrangement *a, size_t row, size_t first, size_t end, uint8_t *block) {
    size_t lines = a->group / 8, groups = a->inputs / a->group, lane = row % LANES, pair = LINE + 2 * lines * LINE;
    size_t count = (end - first) * lines;
    uint8_t *stored = a->stored + row * (a->inputs / 2) + first * a->group / 2;
    uint32_t words[STRETCH * LARGEST_GROUP / 8];
    if (!a->back) {
        memcpy(words, stored, 4 * count);
        for (size_t i = 0; i < count; i++) words[i] = shuffle(words[i]);
    }
    for (size_t g = first; g < end; g++) {
        uint8_t *head = block + g / 2 * pair;
        uint16_t *scale = (uint16_t *)head + g % 2 * LANES + lane, *its = a->scales + row * groups + g;
        uint32_t *own = words + (g - first) * lines;
        uint8_t *arranged = head + LINE + g % 2 * lines * LINE + 4 * lane;
        if (a->back) {
            *its = *scale;
            for (size_t i = 0; i < lines; i++) memcpy(own + i, arranged + i * LINE, 4);
        } else {
            *scale = *its;
            for (size_t i = 0; i < lines; i++) memcpy(arranged + i * LINE, own + i, 4);
        }
    }
    if (a->back) {
        for (size_t i = 0; i < count; i++) words[i] = unshuffle(words[i]);
        memcpy(stored, words, 4 * count);
    }
}

/* Moves `count` inputs of a row from the one `first` on, 4 at a time; `first` is a multiple of 4. */
static void move_int8_inputs(const arrangement *a, size_t row, int first, int count, uint8_t *block) {
    uint8_t *stored = a->stored + row * a->inputs + first;
    uint8_t *arranged = block + (size_t)first / 4 * LINE + 4 * (row % LANES);
    int whole = count / 4, rest = count % 4, back = a->back;
    for (int i = 0; i < whole; i++) {
        uint8_t *from = back ? arranged + i * LINE : stored + 4 * i, *to = back ? stored + 4 * i : arranged + i * LINE;
        uint32_t word;
        memcpy(&word, from, 4);
        word ^= 0x80808080u;
        memcpy(to, &word, 4);
    }
    for (int i = 0; i < rest; i++) {
        uint8_t *one = stored + 4 * whole + i, *there = arranged + whole * LINE + i;
        if (back) *one = *there ^ 128;
        else *there = *one ^ 128;
    }
}

/* Rows go side by side through a short stretch of inputs, so that what is written or read in 4 bytes stays in the cache. */
static void move_blocks(void *data) {
    arrangement *a = data;
    size_t bytes = a->scales ? visualglm_int4_bytes(LANES, a->inputs, a->group) : visualglm_int8_bytes(LANES, a->inputs);
    int groups = a->scales ? a->inputs / a->group : 0;
    for (int block; (block = next_piece(&a->next_block)) * LANES < a->outputs;) {
        uint8_t *head = a->arranged + block * bytes;
        size_t first = (size_t)block * LANES, end = a->outputs - first < LANES ? (size_t)a->outputs : first + LANES;
        if (!a->back) memset(head, a->scales ? 0 : 128, bytes);
        if (a->scales)
            for (int start = 0; start < groups; start += STRETCH)
                for (size_t row = first; row < end; row++)
                    move_int4_groups(a, row, start, groups - start < STRETCH ? groups : start + STRETCH, head);
        else
            for (int k = 0; k < a->inputs; k += GROUP8)
                for (size_t row = first; row < end; row++)
                    move_int8_inputs(a, row, k, a->inputs - k < GROUP8 ? a->inputs - k : GROUP8, head);
    }
}

void visualglm_arrange_int4(uint8_t *stored, uint16_t *scales, uint8_t *arranged, int outputs, int inputs, int group,
                            int back, int threads) {
    arrangement a = {stored, arranged, scales, outputs, inputs, group, back, 0};
    run_parallel(move_blocks, &a, threads);
}

void visualglm_arrange_int8(uint8_t *stored, uint8_t *arranged, int outputs, int inputs, int back, int threads) {
    arrangement a = {stored, arranged, NULL, outputs, inputs, 0, back, 0};
    run_parallel(move_blocks, &a, threads);
}
