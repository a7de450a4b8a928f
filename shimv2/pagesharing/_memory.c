/* Memory that many forks share, and keep sharing.
 *
 * A fork shares the pages of its parent until one of the two writes to them, and CPython writes
 * wherever it goes: each object it as much as passes by has its reference count raised, and lowered
 * again.  So a fork soon has copies of its own of pages whose content is what it was.
 *
 * The parent therefore puts its memory into a file in memory, once, and maps that privately in its
 * place: pyrunc_publish_1.  A copy that a fork has made of such a page can be given up whenever it
 * says what the file's does: pyrunc_reclaim_1.  The kernel then shows the file's page again.
 *
 * Most objects are never freed (pagesharing/immortal.py), and what their reference counts say is of no meaning:
 * a page on which nothing but such counts has changed is given up as well.
 *
 * In the file each region lies at its own address.  The rest of the file is a hole, so that a region
 * that malloc makes longer (mremap) finds something there.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_REGIONS 256
#define PAGES 512 /* looked at with one read of the page map */
#define FILE_BYTES ((off_t)1 << 47)
#define PRESENT ((uint64_t)1 << 63)
#define OF_FILE ((uint64_t)1 << 61) /* not a copy of ours */
#define BIAS ((uint64_t)1 << 40)    /* what the count of an object that is never freed begins at */
#define GROUP 8                     /* words, of which one byte says which are such counts */

/* Not on the heap, which is what is being moved. */
static struct {
	int count;
	uintptr_t start[MAX_REGIONS], end[MAX_REGIONS];
	const uint64_t *original[MAX_REGIONS]; /* the file's pages; without a descriptor to be lost */
	uint8_t *counts[MAX_REGIONS]; /* a bit for each word: whether it is a count without meaning */
} image;
static char maps[1 << 18];

/* Whether it is the interpreter, where that is a library and not the program itself. */
static int is_libpython(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && !strncmp(slash, "/libpython3.", 12);
}

/* The heap, anonymous mappings and the interpreter's data; not the stack, not what other libraries
 * hold. */
static int is_ours(const char *line, const char *program)
{
	char perms[5], name[256] = "";
	unsigned long inode;

	if (sscanf(line, "%*x-%*x %4s %*x %*x:%*x %lu %255[^\n]", perms, &inode, name) < 2)
		return 0;
	if (strcmp(perms, "rw-p"))
		return 0;
	if (inode)
		return !strcmp(name, program) || is_libpython(name);
	return !*name || !strcmp(name, "[heap]");
}

static int find_regions(void)
{
	char program[256] = "";
	size_t used = 0;
	ssize_t got;
	char *at, *next;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || readlink("/proc/self/exe", program, sizeof program - 1) < 0)
		return 0;
	while ((got = read(fd, maps + used, sizeof maps - 1 - used)) > 0)
		used += got;
	close(fd);
	maps[used] = 0;
	for (at = maps; (next = strchr(at, '\n')) && image.count < MAX_REGIONS; at = next + 1) {
		unsigned long start, end;

		*next = 0;
		if (is_ours(at, program) && sscanf(at, "%lx-%lx", &start, &end) == 2) {
			image.start[image.count] = start;
			image.end[image.count++] = end;
		}
	}
	return image.count;
}

/* Whether region `i` now shows the file's content; else it stays what it was. */
static int move(int fd, int i)
{
	uintptr_t start = image.start[i], at = start;
	size_t size = image.end[i] - start;
	void *original;

	while (at < image.end[i]) {
		ssize_t done = pwrite(fd, (void *)at, image.end[i] - at, at);

		if (done <= 0)
			return 0;
		at += done;
	}
	original = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, start);
	if (original == MAP_FAILED)
		return 0;
	if (mmap((void *)start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, start) ==
	    MAP_FAILED) {
		munmap(original, size);
		return 0;
	}
	image.original[i] = original; /* not before: this very variable may just have been moved */
	return 1;
}

/* Note which words are counts of objects that are never freed. */
static void note_counts(const uint64_t *addresses, long count)
{
	long n;
	int i;

	for (i = 0; i < image.count; i++) {
		size_t size = (image.end[i] - image.start[i]) / sizeof(uint64_t) / GROUP;
		void *bits = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		image.counts[i] = bits == MAP_FAILED ? NULL : bits;
	}
	for (n = 0; n < count; n++)
		for (i = 0; i < image.count; i++)
			if (image.counts[i] && addresses[n] >= image.start[i] && addresses[n] < image.end[i]) {
				size_t word = (addresses[n] - image.start[i]) / sizeof(uint64_t);

				image.counts[i][word / GROUP] |= 1 << word % GROUP;
			}
}

/* Of CPython, whose cache of looked-up attributes is full of what was used last: empty, it is the same
 * in all.  What is cached is valid for as long as it is there, so that it may come again, too. */
__attribute__((weak)) unsigned int PyType_ClearCache(void);

static void clear_cache(void)
{
	if (PyType_ClearCache)
		PyType_ClearCache();
}

/* Put our memory into a file and map that in its place; -1 when it cannot be done.
 * At the `count` addresses are reference counts of objects that are never freed.
 * No other thread may run. */
__attribute__((visibility("default"))) int pyrunc_publish_2(const uint64_t *addresses, long count)
{
	int i, fd = memfd_create("pyrunc-image", MFD_CLOEXEC);
	sigset_t all, before;

	if (fd < 0)
		return -1;
	if (ftruncate(fd, FILE_BYTES) || !find_regions()) {
		close(fd);
		return -1;
	}
	note_counts(addresses, count);
	clear_cache();
	sigfillset(&all); /* what a handler writes while a region is moved would be lost */
	sigprocmask(SIG_BLOCK, &all, &before);
	for (i = 0; i < image.count; i++)
		if (!move(fd, i))
			image.end[i] = image.start[i];
	sigprocmask(SIG_SETMASK, &before, NULL);
	close(fd);
	return 0;
}

/* Whether it is the count of an object that is never freed: none comes near to half the bias. */
static int is_biased(uint64_t word)
{
	return word >= BIAS / 2 && word < BIAS * 2;
}

/* Whether a page says what was published, counts without meaning aside. */
static int is_as_published(const uint64_t *now, const uint64_t *then, const uint8_t *counts,
			   long words)
{
	long i, k;

	for (i = 0; i < words; i += GROUP) {
		if (!memcmp(now + i, then + i, GROUP * sizeof *now))
			continue;
		if (!counts || !counts[i / GROUP])
			return 0;
		for (k = 0; k < GROUP; k++)
			if (now[i + k] != then[i + k] &&
			    !(counts[i / GROUP] >> k & 1 && is_biased(now[i + k]) && is_biased(then[i + k])))
				return 0;
	}
	return 1;
}

/* Give up the copies among `count` pages of region `r`, from its page `first`, that say what the
 * file's say; how many. */
static long reclaim(int r, long first, const uint64_t *entries, long count, long page)
{
	long i, run = 0, given = 0, words = page / sizeof(uint64_t);

	for (i = 0; i <= count; i++) {
		long word = (first + i) * words;

		if (i < count && entries[i] & PRESENT && !(entries[i] & OF_FILE) &&
		    is_as_published((uint64_t *)image.start[r] + word, image.original[r] + word,
				    image.counts[r] ? image.counts[r] + word / GROUP : NULL, words)) {
			run++;
			continue;
		}
		if (run && !madvise((char *)image.start[r] + (first + i - run) * page, run * page,
				    MADV_DONTNEED))
			given += run;
		run = 0;
	}
	return given;
}

/* Read `count` entries of the page map for region `i`, from its page `first`; whether it was done. */
static int read_entries(int pagemap, int i, long first, uint64_t *entries, long count, long page)
{
	ssize_t bytes = count * sizeof *entries;

	return pread(pagemap, entries, bytes, (image.start[i] / page + first) * sizeof *entries) == bytes;
}

/* Give up all copies that say what was published; how many, -1 when it cannot be told.
 * No other thread may run.  Signals wait: what a handler writes between the comparison of a page and
 * its end would be lost, and with it the signal (seen: exits that nobody was told of). */
__attribute__((visibility("default"))) long pyrunc_reclaim_1(void)
{
	static uint64_t entries[PAGES];
	long page = sysconf(_SC_PAGESIZE), given = 0;
	int i, pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	sigset_t all, before;

	if (pagemap < 0)
		return -1;
	clear_cache();
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	for (i = 0; i < image.count; i++) {
		long first, pages = (image.end[i] - image.start[i]) / page;

		for (first = 0; first < pages; first += PAGES) {
			long count = pages - first < PAGES ? pages - first : PAGES;

			if (!read_entries(pagemap, i, first, entries, count, page))
				break;
			given += reclaim(i, first, entries, count, page);
		}
		if (pages) /* looked at, not needed */
			madvise((void *)image.original[i], pages * page, MADV_DONTNEED);
	}
	close(pagemap);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return given;
}
