/* What is free between what is used: taken, and kept, so that a fork gets pages of its own.
 *
 * What a fork allocates would otherwise go into these holes, and each costs the copy of a page that
 * is full of what is shared.  Two allocators have such holes: CPython's, for small objects, and
 * malloc.
 */

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

/* CPython's allocator has pools of blocks of one size each; it begins a new one when none of those
 * that are there has a block left.  As of 3.11; others may look different, and are left alone. */
#define POOL ((uintptr_t)16384)
#define BLOCK 16 /* bytes, the smallest; all others are multiples */
#define LARGEST_BLOCK 512

struct pool {
	uint64_t used; /* blocks */
	void *free, *next, *previous;
	uint32_t arena, kind, next_offset, last_offset;
};

__attribute__((weak)) void *PyObject_Malloc(size_t);
__attribute__((weak)) void PyObject_Free(void *);

static void fill_pools(void)
{
	size_t size;

	if (!PyObject_Malloc || !PyObject_Free)
		return;
	for (size = BLOCK; size <= LARGEST_BLOCK; size += BLOCK) {
		struct pool *pool;
		void *taken;

		do {
			taken = PyObject_Malloc(size);
			pool = (struct pool *)((uintptr_t)taken & ~(POOL - 1));
			if (!taken || pool->kind != size / BLOCK - 1 || pool->last_offset != POOL - size)
				break; /* not where we think it is */
		} while ((uint32_t)pool->used > 1);
		PyObject_Free(taken); /* the first of a new one */
	}
}

#define LARGEST_CHUNK 65536 /* bytes; far below what malloc would make a mapping for */
#define CACHED 1032 /* up to here malloc keeps what is freed for the next who asks for the same */
#define HEAD 8
#define STEP 16

static void fill_heap(void)
{
#if defined __GLIBC__ && __GLIBC_PREREQ(2, 33)
	uintptr_t top = (uintptr_t)sbrk(0) - mallinfo2().keepcost; /* from here on it is untouched */
	size_t size;

	for (size = LARGEST_CHUNK - HEAD; size >= STEP + HEAD; size -= STEP) {
		void *taken;

		do
			taken = malloc(size);
		while (taken && (uintptr_t)taken < top);
		if (size > CACHED)
			free(taken); /* so that the top is whole again */
	}
#endif
}

/* Take whatever is free and not at the end; it is never given back. */
__attribute__((visibility("default"))) void pyrunc_fill_1(void)
{
	fill_pools();
	fill_heap();
}
