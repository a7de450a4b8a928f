/* Copy-on-write sharing: a fork gives up its copies of pages that are equal to the image.
 *
 * MADV_DONTNEED removes a copy, and the kernel maps the image's page again.  The zygote's objects are
 * never freed (refcounts.py), so their reference counts have no meaning.  Nor have the words that the
 * interpreter writes into bytecode (bytecode.py).  A page that differs from the image only in such words
 * is given up as well.
 *
 * An address may have got other memory since the image was made: free() unmaps, realloc() moves.  So
 * each reclaim asks the kernel which mappings belong to the image, and at which offset.
 */

#define _GNU_SOURCE
#include "_image.h"
#include "_maps.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Whether BIAS was added to a count: no other count comes near to half of BIAS. */
static int is_biased(uint64_t word)
{
	return word >= BIAS / 2 && word < BIAS * 2;
}

/* Whether two words differ only in co_warmup (the lower 16 bits of the upper half), and it is 0 in neither:
 * 0 means that the function has been specialized.  bytecode.py gives the addresses. */
static int is_warmup(uint64_t now, uint64_t then)
{
	const uint64_t warmup = (uint64_t)0xffff << 32;

	return now & warmup && then & warmup && (now & ~warmup) == (then & ~warmup);
}

/* Whether a reclaim may ignore that a word differs. */
static int is_meaningless(const struct region *region, size_t word, uint64_t now, uint64_t then)
{
	uint8_t bit = 1 << word % GROUP;

	if (region->ignored && region->ignored[word / GROUP] & bit)
		return 1;
	return region->counts && region->counts[word / GROUP] & bit &&
	       ((is_biased(now) && is_biased(then)) || is_warmup(now, then));
}

/* Whether the page at `at` is equal to the image, except for words without meaning. */
static int is_as_published(const struct region *region, uintptr_t at, long page)
{
	size_t first = (at - region->start) / sizeof(uint64_t), i, k;
	const uint64_t *now = (const uint64_t *)at, *then = region->original + first;

	for (i = 0; i < page / sizeof *now; i += GROUP)
		if (memcmp(now + i, then + i, GROUP * sizeof *now))
			for (k = i; k < i + GROUP; k++)
				if (now[k] != then[k] && !is_meaningless(region, first + k, now[k], then[k]))
					return 0;
	return 1;
}

/* Whether the page at `at` is a copy that can be given up.  `entry` is its entry of the page map. */
static int is_needless(const struct region *region, uintptr_t at, uint64_t entry, long page)
{
	return entry & PAGE_PRESENT && !(entry & PAGE_OF_FILE) && !is_written_by_kernel(at) &&
	       is_as_published(region, at, page);
}

/* Give up copies between two addresses of a region.  Returns the number of pages. */
static long reclaim(int pagemap, const struct region *region, uintptr_t at, uintptr_t end)
{
	uint64_t entries[ENTRIES];
	long page = sysconf(_SC_PAGESIZE), given = 0;

	while (at < end) {
		long i, run = 0, got = read_page_map(pagemap, at, end, entries);

		if (!got)
			break;
		for (i = 0; i <= got; i++, at += page) {
			if (i < got && is_needless(region, at, entries[i], page)) {
				run++;
				continue;
			}
			if (run && !madvise((char *)at - run * page, run * page, MADV_DONTNEED))
				given += run;
			run = 0;
		}
		at -= page; /* the loop made one step more than there are entries */
	}
	return given;
}

/* Whether a mapping has pages of the image at the addresses that they had in the zygote. */
static int is_of_image(const struct mapping *found)
{
	return !strncmp(found->perms, "rw-p", 4) && found->inode == image.inode &&
	       found->major == image.major && found->minor == image.minor &&
	       found->offset == found->start;
}

static long reclaim_mapping(int pagemap, const struct mapping *found)
{
	long given = 0;
	int i;

	for (i = 0; i < image.count; i++) {
		const struct region *region = &image.regions[i];
		uintptr_t start = found->start > region->start ? found->start : region->start;
		uintptr_t end = found->end < region->end ? found->end : region->end;

		if (region->original && start < end)
			given += reclaim(pagemap, region, start, end);
	}
	return given;
}

/* Give up all copies that are equal to the image.  Returns the number of pages, or -1 on failure.
 * No other thread may run.  Signals are blocked: what a handler writes between the comparison and the
 * removal of a page would be lost, and with it the signal (seen: exits that were not reported). */
__attribute__((visibility("default"))) long pyrunc_reclaim_2(void)
{
	int i, pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct mapping found;
	struct maps maps;
	sigset_t all, before;
	long given = 0;

	if (pagemap < 0)
		return -1;
	if (!open_maps(&maps, "/proc/self/maps")) {
		close(pagemap);
		return -1;
	}
	clear_type_cache();
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	while (next_mapping(&maps, &found))
		if (is_of_image(&found))
			given += reclaim_mapping(pagemap, &found);
	for (i = 0; i < image.count; i++) { /* the comparison mapped these pages; unmap them */
		const struct region *region = &image.regions[i];

		if (region->original)
			madvise((void *)region->original, region->end - region->start, MADV_DONTNEED);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	close_maps(&maps);
	close(pagemap);
	return given;
}
