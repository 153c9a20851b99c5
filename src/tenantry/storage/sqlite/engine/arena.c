/* The memory of a batch's results: pieces that are freed together. */
#include "engine.h"
#include <stdlib.h>

atomic_size_t result_bytes_max = RESULT_BYTES_MAX;

/* Return memory for any type; NULL if the batch's results would be larger than the limit, or if there is no memory. */
void *arena_take(Arena *arena, size_t bytes)
{
    size_t wanted = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t), limit = result_bytes_max;
    if (wanted < bytes || arena->bytes > limit || wanted > limit - arena->bytes)
        return NULL;
    ArenaPiece *piece = arena->pieces;
    if (piece == NULL || piece->size - piece->used < wanted) {
        size_t size = wanted > ARENA_BYTES ? wanted : ARENA_BYTES;
        if ((piece = malloc(sizeof *piece + size)) == NULL)
            return NULL;
        *piece = (ArenaPiece){.next = arena->pieces, .used = 0, .size = size};
        arena->pieces = piece;
    }
    void *taken = (char *)piece->content + piece->used;
    piece->used += wanted;
    arena->bytes += wanted;
    return taken;
}

void arena_free(Arena *arena)
{
    ArenaPiece *next;
    for (ArenaPiece *piece = arena->pieces; piece != NULL; piece = next) {
        next = piece->next;
        free(piece);
    }
    *arena = (Arena){NULL, 0};
}
