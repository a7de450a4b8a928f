/* Touching memory before it is needed.
 *
 * A fork gets the pages of its parent one at a time: an interrupt when it first reads one, another
 * when it first writes to it, which copies the page.  All of that takes longer than what a shim does
 * at its start.  So a fork that has been there writes down what it has touched (pyrunc_touched_1), and
 * the next one, with nothing to do yet, asks the kernel for all of it at once (pyrunc_touch_1).
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 512 /* looked at with one read of the page map */
#define PRESENT ((uint64_t)1 << 63)
#define EXCLUSIVE ((uint64_t)1 << 56) /* no other process has it: a copy of ours, unless a file's */
#define OF_FILE ((uint64_t)1 << 61)
#define WRITTEN ((uint64_t)1)       /* in the first address of a run, which is a page's */
#define POPULATE_READ 22            /* MADV_POPULATE_*: Linux 5.14, younger than many headers */
#define POPULATE_WRITE 23

struct runs {
	uint64_t *numbers; /* of each run its first address, with WRITTEN or without, and its end */
	long used, most;
};

static void add(struct runs *runs, uint64_t at, uint64_t written, uint64_t page)
{
	if (runs->used && runs->numbers[runs->used - 1] == at &&
	    (runs->numbers[runs->used - 2] & WRITTEN) == written) {
		runs->numbers[runs->used - 1] += page;
	} else if (runs->used + 2 <= runs->most) {
		runs->numbers[runs->used++] = at | written;
		runs->numbers[runs->used++] = at + page;
	}
}

static int is_copy(uint64_t entry)
{
	return entry & EXCLUSIVE && !(entry & OF_FILE);
}

static void look(struct runs *runs, int pagemap, uint64_t start, uint64_t end, uint64_t page)
{
	uint64_t entries[PAGES], at = start;
	ssize_t got, i;

	while (at < end) {
		uint64_t count = (end - at) / page < PAGES ? (end - at) / page : PAGES;

		got = pread(pagemap, entries, count * sizeof *entries, at / page * sizeof *entries);
		if (got <= 0)
			return;
		for (i = 0; i < got / (ssize_t)sizeof *entries; i++, at += page)
			if (entries[i] & PRESENT)
				add(runs, at, is_copy(entries[i]) ? WRITTEN : 0, page);
	}
}

/* Write down the pages that are here, as runs of pages; how many numbers these are, at most `most`. */
__attribute__((visibility("default"))) long pyrunc_touched_1(uint64_t *numbers, long most)
{
	struct runs runs = {numbers, 0, most};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[4352]; /* a path may have 4,095 bytes */
	unsigned long start, end;

	while (pagemap >= 0 && maps && fgets(line, sizeof line, maps))
		/* Not what the kernel shows of itself: vvar, vdso, vsyscall. */
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && !strstr(line, "[v"))
			look(&runs, pagemap, start, end, sysconf(_SC_PAGESIZE));
	if (maps)
		fclose(maps);
	if (pagemap >= 0)
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

/* Have these runs here, those that were written to as copies of our own: these first, for the kernel
 * maps what lies around a page that is read, and a page that is there already is copied more slowly. */
__attribute__((visibility("default"))) void pyrunc_touch_1(const uint64_t *numbers, long count)
{
	populate(numbers, count, WRITTEN, POPULATE_WRITE);
	populate(numbers, count, 0, POPULATE_READ);
}
