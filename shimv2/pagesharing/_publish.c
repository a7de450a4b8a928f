/* Copy-on-write sharing: a zygote moves its memory into an image.
 *
 * A fork shares the pages of its parent until one of the two writes to them.  CPython writes to each
 * object that it uses, because the reference count lies in the object.  So a fork soon has copies of
 * many pages whose content is equal to the original.  The kernel does not compare them.
 *
 * Therefore the zygote writes its memory into a file, the image, and maps the file in the place of the
 * memory (MAP_PRIVATE).  If a fork has copied a page, it can compare the page with the image and give
 * it up (_reclaim.c).  The image is sealed and mapped from a read-only descriptor: no process can
 * change what other processes read.
 *
 * Only present pages are written.  The rest of the file is a hole.  A hole reads as zeros, like the
 * missing pages of anonymous memory.  If malloc makes a mapping longer (mremap), the new part is a hole
 * as well.
 */

#define _GNU_SOURCE
#include "_image.h"
#include "_maps.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define FILE_BYTES ((off_t)1 << 47) /* the address space of a process on x86-64 */
#define SEAL_TRIES 30
#define RSEQ_BYTES 32               /* the least size of a thread's rseq(2) area */

struct image image;

struct words {
	const uint64_t *at;
	long count;
};

/* Weak symbols: this file is not linked to CPython, and glibc has the second since 2.35 only. */
__attribute__((weak)) unsigned int PyType_ClearCache(void);
extern const ptrdiff_t __rseq_offset __attribute__((weak));
extern const unsigned int __rseq_size __attribute__((weak));

void clear_type_cache(void)
{
	if (PyType_ClearCache)
		PyType_ClearCache();
}

/* The address of this thread's rseq(2) area; 0 if there is none. */
static uintptr_t rseq_area(void)
{
	return &__rseq_offset ? (uintptr_t)__builtin_thread_pointer() + __rseq_offset : 0;
}

int is_written_by_kernel(uintptr_t at)
{
	return at / sysconf(_SC_PAGESIZE) == rseq_area() / sysconf(_SC_PAGESIZE);
}

/* Whether a file is libpython: some interpreters are a small program with this library. */
static int is_libpython(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && !strncmp(slash, "/libpython3.", 12);
}

/* Whether a mapping can be shared: the heap, anonymous memory and the interpreter's data can; the stack
 * and the data of other libraries cannot.  Memory that forks do not get unchanged cannot either: since
 * 2.41 glibc keeps the state of its random numbers there, and each fork must get other random numbers. */
static int is_shareable(const struct mapping *found, const char *program)
{
	if (strcmp(found->perms, "rw-p") || found->end > (uintptr_t)FILE_BYTES)
		return 0;
	if (found->inode)
		return !strcmp(found->name, program) || is_libpython(found->name);
	return !*found->name || !strcmp(found->name, "[heap]");
}

/* Whether a page that the page map describes has to be written into the image. */
static int has_content(uint64_t entry, int of_file)
{
	return of_file || entry & (PAGE_PRESENT | PAGE_SWAPPED);
}

/* Call `act` for each run of pages with content in a region.  Returns 0 if a call fails, or if there is a
 * guard page: it cannot be read, and the same page of the image would not be a guard page. */
static int each_run(int pagemap, const struct region *region, int of_file,
		    int (*act)(uintptr_t start, uintptr_t end, void *with), void *with)
{
	uintptr_t page = sysconf(_SC_PAGESIZE), at = region->start, run = 0;
	uint64_t entries[ENTRIES];

	while (at < region->end) {
		long i, got = read_page_map(pagemap, at, region->end, entries);

		if (!got)
			return 0;
		for (i = 0; i < got; i++, at += page) {
			if (entries[i] & PAGE_GUARD)
				return 0;
			if (has_content(entries[i], of_file)) {
				run = run ? run : at;
			} else if (run) {
				if (!act(run, at, with))
					return 0;
				run = 0;
			}
		}
	}
	return !run || act(run, at, with);
}

static int add_size(uintptr_t start, uintptr_t end, void *with)
{
	*(uint64_t *)with += end - start;
	return 1;
}

/* Not pwrite(3): in a process that has had a second thread, it sets a mark in the thread's memory while
 * it runs (glibc: CANCELTYPE_BITMASK in cancelhandling), and the image would have that mark. */
static int write_run(uintptr_t start, uintptr_t end, void *with)
{
	int fd = *(int *)with;

	while (start < end) {
		long done = syscall(SYS_pwrite64, fd, (void *)start, end - start, start);

		if (done <= 0)
			return 0;
		start += done;
	}
	return 1;
}

/* Find the regions.  `of_file[i]` becomes 1 if region i belongs to a file.  Returns their content in
 * bytes. */
static uint64_t find_regions(int pagemap, unsigned char *of_file)
{
	char program[4096] = "";
	struct maps maps;
	struct mapping found;
	uint64_t bytes = 0;

	if (readlink("/proc/self/exe", program, sizeof program - 1) < 0 || !open_maps(&maps, "/proc/self/smaps"))
		return 0;
	while (image.count < MAX_REGIONS && next_mapping(&maps, &found))
		if (is_shareable(&found, program) && is_copied_by_fork(&maps)) {
			struct region *region = &image.regions[image.count];
			uint64_t size = 0;

			*region = (struct region){.start = found.start, .end = found.end};
			of_file[image.count] = found.inode != 0;
			if (each_run(pagemap, region, of_file[image.count], add_size, &size)) {
				bytes += size;
				image.count++; /* else it cannot be read, and is not shared */
			}
		}
	close_maps(&maps);
	return bytes;
}

/* Make a bitmap for the words of a region; NULL if there is no memory for it. */
static uint8_t *make_bitmap(const struct region *region)
{
	size_t bytes = (region->end - region->start) / sizeof(uint64_t) / GROUP;
	void *bits = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return bits == MAP_FAILED ? NULL : bits;
}

static void mark(uint8_t *bitmap, const struct region *region, uintptr_t at)
{
	size_t word = (at - region->start) / sizeof(uint64_t);

	if (bitmap)
		bitmap[word / GROUP] |= 1 << word % GROUP;
}

static const struct region *region_of(uintptr_t at)
{
	int i;

	for (i = 0; i < image.count; i++)
		if (at >= image.regions[i].start && at < image.regions[i].end)
			return &image.regions[i];
	return NULL;
}

/* Mark the words that are counts without meaning, and the words in ranges that may be ignored. */
static void make_bitmaps(const struct words *counts, const struct words *ranges)
{
	long n;
	int i;

	for (i = 0; i < image.count; i++) {
		image.regions[i].counts = counts->count ? make_bitmap(&image.regions[i]) : NULL;
		image.regions[i].ignored = ranges->count ? make_bitmap(&image.regions[i]) : NULL;
	}
	for (n = 0; n < counts->count; n++) {
		const struct region *region = region_of(counts->at[n]);

		if (region)
			mark(region->counts, region, counts->at[n]);
	}
	for (n = 0; n + 1 < ranges->count; n += 2) {
		const struct region *region = region_of(ranges->at[n]);
		uintptr_t at, word = sizeof(uint64_t);

		if (region) /* a range lies in one page, and so in one region */
			for (at = (ranges->at[n] + word - 1) / word * word; at + word <= ranges->at[n + 1]; at += word)
				mark(region->ignored, region, at);
	}
}

/* Map each region of the image a second time, for comparisons.  The addresses go to `originals`, which
 * lies on the stack. */
static int map_originals(int fd, const uint64_t **originals)
{
	int i;

	for (i = 0; i < image.count; i++) {
		const struct region *region = &image.regions[i];
		void *found = mmap(NULL, region->end - region->start, PROT_READ, MAP_SHARED, fd, region->start);

		if (found == MAP_FAILED)
			return 0;
		originals[i] = found;
	}
	return 1;
}

struct comparison {
	const struct region *region;
	const char *original;
};

/* Whether a page is equal to its original, except for the rseq(2) area. */
static int is_page_equal(const char *at, const char *original)
{
	size_t page = sysconf(_SC_PAGESIZE), before = page, after = page;

	if (is_written_by_kernel((uintptr_t)at)) {
		before = rseq_area() % page;
		after = before + RSEQ_BYTES;
		if (&__rseq_size && __rseq_size > RSEQ_BYTES)
			after = before + __rseq_size;
	}
	return !memcmp(at, original, before) &&
	       (after >= page || !memcmp(at + after, original + after, page - after));
}

static int is_run_equal(uintptr_t start, uintptr_t end, void *with)
{
	const struct comparison *comparison = with;
	uintptr_t page = sysconf(_SC_PAGESIZE), at;

	for (at = start; at < end; at += page)
		if (!is_page_equal((void *)at, comparison->original + (at - comparison->region->start)))
			return 0;
	return 1;
}

static int is_image_equal(int pagemap, const unsigned char *of_file, const uint64_t **originals)
{
	int i;

	for (i = 0; i < image.count; i++) {
		struct comparison comparison = {&image.regions[i], (const char *)originals[i]};

		if (!each_run(pagemap, &image.regions[i], of_file[i], is_run_equal, &comparison))
			return 0;
	}
	return 1;
}

/* Map the image in the place of the regions.  A region that cannot be replaced is not shared. */
static void replace_regions(int fd, const uint64_t **originals)
{
	int i;

	for (i = 0; i < image.count; i++) {
		struct region *region = &image.regions[i];
		void *place = (void *)region->start;
		size_t size = region->end - region->start;

		if (mmap(place, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, region->start) ==
		    MAP_FAILED)
			originals[i] = NULL;
	}
	/* Only now: `image` itself may lie in a region.  The comparison has mapped all pages of the image
	 * into this process, which does not need them: they would count as its memory. */
	for (i = 0; i < image.count; i++) {
		const struct region *region = &image.regions[i];

		if (originals[i])
			madvise((void *)originals[i], region->end - region->start, MADV_DONTNEED);
		image.regions[i].original = originals[i];
	}
}

/* Seal the image.  The kernel refuses while another part of it uses a page, such as compaction, which
 * moves pages.  It waits some 0.1 s for such a use to end, and that is not enough on a busy machine. */
static int add_seals(int fd)
{
	int before = errno, tries = SEAL_TRIES, result;

	do
		result = fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
	while (result && errno == EBUSY && --tries);
	errno = before; /* errno lies in memory that was written to the image: keep the two equal */
	return result;
}

/* Seal the image and open it read-only; -1 if that fails. */
static int seal(int fd)
{
	char path[64];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return add_seals(fd) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
}

/* Write the image and map it.  This function may write to the stack only: other changes would be missing
 * in the image, and so would be lost. */
static const char *move(int fd, int pagemap, const unsigned char *of_file)
{
	const uint64_t *originals[MAX_REGIONS];
	int i, readable;

	for (i = 0; i < image.count; i++)
		if (!each_run(pagemap, &image.regions[i], of_file[i], write_run, &fd))
			return "the image cannot be written";
	readable = seal(fd);
	if (readable < 0)
		return "the image cannot be sealed";
	if (!map_originals(readable, originals)) {
		close(readable);
		return "the image cannot be mapped";
	}
	if (!is_image_equal(pagemap, of_file, originals)) {
		close(readable);
		return "the image differs from the memory it was made of";
	}
	replace_regions(readable, originals);
	close(readable);
	return NULL;
}

/* Move this process's memory into an image of at most `max_bytes`.  Returns NULL, or why it failed.
 * `counts` are the addresses of reference counts without meaning.  `ranges` are pairs of a start and an
 * end address in one page: a reclaim ignores differences there.  No other thread may run. */
__attribute__((visibility("default"))) const char *
pyrunc_publish_4(const uint64_t *counts, long count, const uint64_t *ranges, long range_count,
		 uint64_t max_bytes)
{
	unsigned char of_file[MAX_REGIONS];
	int fd, pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	const char *failure;
	sigset_t all, before;
	struct stat file;
	uint64_t bytes;

	if (pagemap < 0)
		return "/proc/self/pagemap cannot be read";
	bytes = find_regions(pagemap, of_file);
	fd = memfd_create("pyrunc-image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (!bytes || bytes > max_bytes) {
		failure = bytes ? "there is too much memory to share" : "no memory to share was found";
	} else if (fd < 0 || ftruncate(fd, FILE_BYTES) || fstat(fd, &file)) {
		failure = "the kernel makes no file in memory";
	} else {
		image.major = major(file.st_dev);
		image.minor = minor(file.st_dev);
		image.inode = file.st_ino;
		make_bitmaps(&(struct words){counts, count}, &(struct words){ranges, range_count});
		clear_type_cache();
		sigfillset(&all); /* else what a signal handler writes meanwhile is lost */
		sigprocmask(SIG_BLOCK, &all, &before);
		failure = move(fd, pagemap, of_file);
		sigprocmask(SIG_SETMASK, &before, NULL);
	}
	if (failure)
		image.count = 0;
	if (fd >= 0)
		close(fd);
	close(pagemap);
	return failure;
}
