/* Filling the heap: before a zygote forks, it allocates the free memory that malloc has between used
 * memory.
 *
 * Reason: otherwise a fork's new memory lies in these gaps, on shared pages, and each write to it
 * copies such a page.
 */

#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define LARGEST_CHUNK 65536 /* bytes; far below M_MMAP_THRESHOLD, from where malloc makes a mapping */
#define LARGEST_CACHED 1032 /* up to this size malloc caches freed chunks (tcache) */
#define CHUNK_HEAD 8
#define CHUNK_STEP 16

/* Allocate all free memory except the end of the heap.  It is never freed. */
__attribute__((visibility("default"))) void pyrunc_fill_1(void)
{
#if defined __GLIBC__ && defined __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 33)
	uintptr_t top = (uintptr_t)sbrk(0) - mallinfo2().keepcost; /* from here on the heap is unused */
	size_t size;

	for (size = LARGEST_CHUNK - CHUNK_HEAD; size >= CHUNK_STEP + CHUNK_HEAD; size -= CHUNK_STEP) {
		void *taken;

		do
			taken = malloc(size);
		while (taken && (uintptr_t)taken < top);
		if (size > LARGEST_CACHED)
			free(taken); /* it lies at the top: malloc joins it to the top again */
	}
#endif
#endif
}
