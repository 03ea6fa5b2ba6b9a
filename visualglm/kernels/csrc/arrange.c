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

static uint32_t spread(uint32_t nibbles) { /* 4 nibbles -> 4 bytes */
    nibbles = (nibbles | nibbles << 8) & 0x00ff00ffu;
    return (nibbles | nibbles << 4) & 0x0f0f0f0fu;
}

static uint32_t gather(uint32_t bytes) { /* the reverse */
    bytes = (bytes | bytes >> 4) & 0x00ff00ffu;
    return (bytes | bytes >> 8) & 0xffffu;
}

static void move_int4_row(const arrangement *a, int block, int lane) {
    size_t row = (size_t)block * LANES + lane, lines = a->group / 8, groups = a->inputs / a->group;
    uint8_t *head = a->arranged + block * visualglm_int4_bytes(LANES, a->inputs, a->group);
    for (size_t g = 0; g < groups; g++) {
        uint8_t *pair = head + g / 2 * (LINE + 2 * lines * LINE);
        uint16_t *scale = (uint16_t *)pair + g % 2 * LANES + lane;
        if (a->back) a->scales[row * groups + g] = *scale;
        else *scale = a->scales[row * groups + g];
        for (size_t i = 0; i < lines; i++) {
            uint8_t *stored = a->stored + row * (a->inputs / 2) + g * a->group / 2 + 4 * i;
            uint8_t *four = pair + LINE + (g % 2 * lines + i) * LINE + 4 * lane;
            uint32_t word;
            memcpy(&word, a->back ? four : stored, 4);
            if (a->back) word = gather(word & 0x0f0f0f0fu) | gather(word >> 4 & 0x0f0f0f0fu) << 16;
            else word = spread(word & 0xffff) | spread(word >> 16) << 4;
            memcpy(a->back ? stored : four, &word, 4);
        }
    }
}

static void move_int8_row(const arrangement *a, int block, int lane) {
    uint8_t *stored = a->stored + ((size_t)block * LANES + lane) * a->inputs;
    uint8_t *arranged = a->arranged + block * visualglm_int8_bytes(LANES, a->inputs) + 4 * lane;
    for (int k = 0; k < a->inputs; k++) {
        uint8_t *there = arranged + (size_t)(k / 4) * LINE + k % 4;
        if (a->back) stored[k] = *there ^ 128;
        else *there = stored[k] ^ 128;
    }
}

static void move_blocks(void *data) {
    arrangement *a = data;
    size_t bytes = a->scales ? visualglm_int4_bytes(LANES, a->inputs, a->group) : visualglm_int8_bytes(LANES, a->inputs);
    for (int block; (block = next_piece(&a->next_block)) * LANES < a->outputs;) {
        if (!a->back) memset(a->arranged + block * bytes, a->scales ? 0 : 128, bytes);
        for (int lane = 0; lane < LANES && block * LANES + lane < a->outputs; lane++)
            if (a->scales) move_int4_row(a, block, lane);
            else move_int8_row(a, block, lane);
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
