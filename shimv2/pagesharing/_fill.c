/* Free memory of malloc between what is used: a zygote takes it before it forks.
 *
 * What a fork allocates would otherwise lie there, and each piece would cost the copy of a page that
 * is full of shared memory.
 */

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define LARGEST_CHUNK 65536 /* bytes; far below what malloc would make a mapping for */
#define LARGEST_CACHED 1032 /* up to here malloc keeps freed chunks for the next request of that size */
#define CHUNK_HEAD 8
#define CHUNK_STEP 16

/* Take whatever is free, except at the end of the heap; it is never given back. */
__attribute__((visibility("default"))) void pyrunc_fill_1(void)
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
