#ifndef PYRUNC_IMAGE_H
#define PYRUNC_IMAGE_H

#include <stdint.h>
#include <sys/types.h>

/* The image: a file in memory with what a zygote's memory held when it was published.  Each region of
 * memory lies in it at the offset that is its address. */

#define MAX_REGIONS 256
#define GROUP 8                  /* words of memory, of which one byte of a bitmap tells */
#define BIAS ((uint64_t)1 << 40) /* refcounts.py: what it adds to the counts of CPython 3.11 */

struct region {
	uintptr_t start, end;
	const uint64_t *original; /* the same pages, mapped shared and read-only */
	uint8_t *counts;          /* a bit for each word: whether it is a reference count without meaning */
	uint8_t *ignored;         /* a bit for each word: whether it may be what it is in the image */
};

extern struct image {
	unsigned int major, minor; /* of the file's device */
	uint64_t inode;
	int count;
	struct region regions[MAX_REGIONS];
} image;

/* Empty CPython's cache of looked-up attributes (PyType_ClearCache), so that it is the same in all
 * forks.  What it caches stays valid, so that it may come back with a page of the image. */
void clear_type_cache(void);

/* Whether the kernel itself writes to the page at `at`: the one with this thread's rseq(2) area. */
int is_written_by_kernel(uintptr_t at);

#endif
