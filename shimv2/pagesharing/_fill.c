/* Free memory between objects: a zygote takes it before it forks.
 *
 * A fork's new objects would otherwise get these places, and each would cost the copy of a page that
 * is full of shared objects.  Two allocators have such places: CPython's, for small objects, and
 * malloc.
 */

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

/* CPython's allocator has pools, each with blocks of one size.  It begins a new pool when no pool of
 * that size has a free block.  As in CPython 3.11 to 3.14 (Objects/obmalloc.c, since 3.12
 * Include/internal/pycore_obmalloc.h). */
#define POOL_SIZE ((uintptr_t)16384)
#define ALIGNMENT 16 /* bytes: the smallest size; all others are multiples */
#define SMALL_REQUEST_THRESHOLD 512

struct pool_header {
	uint64_t count; /* of the blocks that are in use */
	void *freeblock, *nextpool, *prevpool;
	uint32_t arenaindex, szidx, nextoffset, maxnextoffset;
};

__attribute__((weak)) void *PyObject_Malloc(size_t);
__attribute__((weak)) void PyObject_Free(void *);

static void fill_pools(void)
{
	size_t size;

	if (!PyObject_Malloc || !PyObject_Free)
		return;
	for (size = ALIGNMENT; size <= SMALL_REQUEST_THRESHOLD; size += ALIGNMENT) {
		struct pool_header *pool;
		void *taken;

		do {
			taken = PyObject_Malloc(size);
			pool = (struct pool_header *)((uintptr_t)taken & ~(POOL_SIZE - 1));
			if (!taken || pool->szidx != size / ALIGNMENT - 1 ||
			    pool->maxnextoffset != POOL_SIZE - size)
				break; /* another allocator: PYTHONMALLOC */
		} while ((uint32_t)pool->count > 1);
		PyObject_Free(taken); /* the first block of a new pool */
	}
}

#define LARGEST_CHUNK 65536 /* bytes; far below what malloc would make a mapping for */
#define LARGEST_CACHED 1032 /* up to here malloc keeps freed chunks for the next request of that size */
#define CHUNK_HEAD 8
#define CHUNK_STEP 16

static void fill_heap(void)
{
#if defined __GLIBC__ && defined __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 33)
	uintptr_t top = (uintptr_t)sbrk(0) - mallinfo2().keepcost; /* from here on nothing was used */
	size_t size;

	for (size = LARGEST_CHUNK - CHUNK_HEAD; size >= CHUNK_STEP + CHUNK_HEAD; size -= CHUNK_STEP) {
		void *taken;

		do
			taken = malloc(size);
		while (taken && (uintptr_t)taken < top);
		if (size > LARGEST_CACHED)
			free(taken); /* so that the top is whole again */
	}
#endif
#endif
}

/* Take whatever is free, except at the end; it is never given back. */
__attribute__((visibility("default"))) void pyrunc_fill_1(void)
{
	fill_pools();
	fill_heap();
}
