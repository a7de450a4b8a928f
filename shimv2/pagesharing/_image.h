#ifndef PYRUNC_IMAGE_H
#define PYRUNC_IMAGE_H

#include <stdint.h>
#include <sys/types.h>

/* The image: a file in memory with the content of a zygote's memory at the time of publishing.  Each
 * region of memory lies in it at the offset that is equal to its address. */

#define MAX_REGIONS 256
#define GROUP 8                  /* words of memory for one byte of a bitmap */
#define BIAS ((uint64_t)1 << 40) /* the same as in refcounts.py */

struct region {
	uintptr_t start, end;
	const uint64_t *original; /* the same pages, mapped shared and read-only */
	uint8_t *counts;          /* a bit for each word: it is a reference count without meaning */
	uint8_t *ignored;         /* a bit for each word: a reclaim may set it back (bytecode) */
};

extern struct image {
	unsigned int major, minor; /* of the file's device */
	uint64_t inode;
	int count;
	struct region regions[MAX_REGIONS];
} image;

/* Empty CPython's method cache (PyType_ClearCache), so that it is the same in all forks.  A reclaim may
 * bring back an entry that is in the image: that is safe, because entries stay valid. */
void clear_type_cache(void);

/* Whether the kernel itself writes to the page at `at`: that page has this thread's rseq(2) area. */
int is_written_by_kernel(uintptr_t at);

#endif
