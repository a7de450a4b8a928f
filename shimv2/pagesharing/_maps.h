#ifndef PYRUNC_MAPS_H
#define PYRUNC_MAPS_H

#include <stddef.h>
#include <stdint.h>

/* Reads /proc/self/maps, smaps and pagemap, and writes to the stack only.  Reason: the callers replace
 * or compare the heap meanwhile, and nothing may write to it. */

struct mapping {
	uintptr_t start, end;
	char perms[5]; /* rwxp */
	uint64_t offset, inode;
	unsigned int major, minor; /* of the device */
	const char *name;          /* in the reader's buffer; "" if it has none */
};

struct maps {
	int fd;
	size_t at, used;
	char buffer[8192]; /* a path has up to 4,095 bytes */
};

int open_maps(struct maps *maps, const char *path); /* of maps or smaps; 0 if it cannot be read */
int next_mapping(struct maps *maps, struct mapping *found);

/* Whether a fork gets this mapping, the last one of smaps, as it is.  A call makes `name` invalid. */
int is_copied_by_fork(struct maps *maps);

void close_maps(struct maps *maps);

/* Bits of an entry of the page map (Linux: Documentation/admin-guide/mm/pagemap.rst). */
#define PAGE_PRESENT ((uint64_t)1 << 63)
#define PAGE_SWAPPED ((uint64_t)1 << 62)
#define PAGE_OF_FILE ((uint64_t)1 << 61)   /* not a copy of this process */
#define PAGE_GUARD ((uint64_t)1 << 58)     /* MADV_GUARD_INSTALL; Linux 6.15 and later */
#define PAGE_EXCLUSIVE ((uint64_t)1 << 56) /* no other process maps it */

#define ENTRIES 256 /* entries of the page map that one call reads */

/* Read up to ENTRIES entries from `start` on.  Returns their number, 0 on failure. */
long read_page_map(int pagemap, uintptr_t start, uintptr_t end, uint64_t *entries);

#endif
