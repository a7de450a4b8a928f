/* Prefaulting: a pre-forked child maps and copies its pages before it needs them.
 *
 * A fork gets the pages of its parent one at a time.  The first read of a page is a page fault.  The
 * first write to it is another one, which copies the page.  All these faults take longer than the rest
 * of a shim's start.  So the first shim lists the pages that it has used (pyrunc_used_pages_1).  Each
 * later child asks the kernel for all of them at once, while it has nothing else to do
 * (pyrunc_prefault_1).
 */

#define _GNU_SOURCE
#include "_maps.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WRITTEN ((uint64_t)1) /* a flag in the first address of a run; addresses of pages are even */
#define POPULATE_READ 22      /* MADV_POPULATE_*: Linux 5.14; many headers do not have it */
#define POPULATE_WRITE 23

struct runs {
	uint64_t *numbers; /* two for each run: its first address (with WRITTEN or without), its end */
	long used, max;
};

static void add(struct runs *runs, uint64_t at, uint64_t written, uint64_t page)
{
	if (runs->used && runs->numbers[runs->used - 1] == at &&
	    (runs->numbers[runs->used - 2] & WRITTEN) == written) {
		runs->numbers[runs->used - 1] += page;
	} else if (runs->used + 2 <= runs->max) {
		runs->numbers[runs->used++] = at | written;
		runs->numbers[runs->used++] = at + page;
	}
}

/* If no other process maps a page, it is a copy of this process, unless it belongs to a file. */
static int is_copy(uint64_t entry)
{
	return entry & PAGE_EXCLUSIVE && !(entry & PAGE_OF_FILE);
}

static void add_mapping(struct runs *runs, int pagemap, uintptr_t at, uintptr_t end)
{
	uint64_t entries[ENTRIES];
	long page = sysconf(_SC_PAGESIZE);

	while (at < end) {
		long i, got = read_page_map(pagemap, at, end, entries);

		if (!got)
			return;
		for (i = 0; i < got; i++, at += page)
			if (entries[i] & PAGE_PRESENT)
				add(runs, at, is_copy(entries[i]) ? WRITTEN : 0, page);
	}
}

/* List the present pages as runs.  Returns how many numbers it has written, at most `max`. */
__attribute__((visibility("default"))) long pyrunc_used_pages_1(uint64_t *numbers, long max)
{
	struct runs runs = {numbers, 0, max};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct mapping found;
	struct maps maps;

	if (pagemap < 0)
		return 0;
	if (open_maps(&maps, "/proc/self/maps")) {
		while (next_mapping(&maps, &found))
			if (strncmp(found.name, "[v", 2)) /* mappings of the kernel: vvar, vdso, vsyscall */
				add_mapping(&runs, pagemap, found.start, found.end);
		close_maps(&maps);
	}
	close(pagemap);
	return runs.used;
}

static void populate(const uint64_t *numbers, long count, uint64_t written, int advice)
{
	long i;

	for (i = 0; i + 1 < count; i += 2)
		if ((numbers[i] & WRITTEN) == written)
			madvise((void *)(numbers[i] - written), numbers[i + 1] - numbers[i] + written, advice);
}

/* Map these runs, and copy those with WRITTEN.  Copies come first: a read also maps the neighbours of
 * its page (fault-around), and the copy of a page that is mapped already takes longer. */
__attribute__((visibility("default"))) void pyrunc_prefault_1(const uint64_t *numbers, long count)
{
	populate(numbers, count, WRITTEN, POPULATE_WRITE);
	populate(numbers, count, 0, POPULATE_READ);
}
