/* The memory of a batch's results: pieces that are freed together.
 *
 * The process keeps one large piece that no batch uses. The allocator would get each large piece from the kernel and give it back, and
 * the faults of its pages would take longer than copying the result. */
#include "engine.h"
#include <stdlib.h>

enum { SPARE_BYTES_MIN = 128 << 10, SPARE_BYTES_MAX = 4 << 20 };

atomic_size_t result_bytes_max = RESULT_BYTES_MAX;
static _Atomic(ArenaPiece *) spare;

static bool may_be_spare(size_t bytes)
{
    return bytes >= SPARE_BYTES_MIN && bytes <= SPARE_BYTES_MAX;
}

static ArenaPiece *new_piece(size_t bytes)
{
    ArenaPiece *piece = may_be_spare(bytes) ? atomic_exchange(&spare, NULL) : NULL;
    if (piece != NULL && piece->size < bytes) {
        free(piece);
        piece = NULL;
    }
    size_t size = piece != NULL ? piece->size : bytes;
    if (piece == NULL && (piece = malloc(sizeof *piece + size)) == NULL)
        return NULL;
    *piece = (ArenaPiece){.next = NULL, .used = 0, .size = size};
    return piece;
}

/* Return memory for any type; NULL if the batch's results would be larger than the limit, or if there is no memory. */
void *arena_take(Arena *arena, size_t bytes)
{
    size_t wanted = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t), limit = result_bytes_max;
    if (wanted < bytes || arena->bytes > limit || wanted > limit - arena->bytes)
        return NULL;
    ArenaPiece *piece = arena->pieces;
    if (piece == NULL || piece->size - piece->used < wanted) {
        if ((piece = new_piece(wanted > ARENA_BYTES ? wanted : ARENA_BYTES)) == NULL)
            return NULL;
        piece->next = arena->pieces;
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
        free(may_be_spare(piece->size) ? atomic_exchange(&spare, piece) : piece);
    }
    *arena = (Arena){NULL, 0};
}
