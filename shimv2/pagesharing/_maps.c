#define _GNU_SOURCE
#include "_maps.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int open_maps(struct maps *maps, const char *path)
{
	maps->at = maps->used = 0;
	maps->fd = open(path, O_RDONLY | O_CLOEXEC);
	return maps->fd >= 0;
}

void close_maps(struct maps *maps)
{
	close(maps->fd);
}

/* The next line without its newline; NULL after the last one.  A line that is longer than the buffer is
 * cut. */
static char *next_line(struct maps *maps)
{
	char *line = maps->buffer + maps->at, *end;

	while (!(end = memchr(line, '\n', maps->used - maps->at))) {
		ssize_t got;

		memmove(maps->buffer, line, maps->used - maps->at);
		maps->used -= maps->at;
		maps->at = 0;
		line = maps->buffer;
		if (maps->used == sizeof maps->buffer)
			maps->used /= 2;
		got = read(maps->fd, line + maps->used, sizeof maps->buffer - maps->used);
		if (got <= 0)
			return NULL;
		maps->used += got;
	}
	*end = 0;
	maps->at = end + 1 - maps->buffer;
	return line;
}

int next_mapping(struct maps *maps, struct mapping *found)
{
	char *line;

	while ((line = next_line(maps))) {
		int name = 0;

		if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &found->start, &found->end, found->perms,
			   &found->offset, &found->major, &found->minor, &found->inode, &name) < 7)
			continue;
		found->name = line + name;
		return 1;
	}
	return 0;
}

/* Flags of proc_pid_smaps(5): "dc" is not in forks (MADV_DONTFORK), "wf" is zero in forks
 * (MADV_WIPEONFORK), "dp" may become zero at any time (MAP_DROPPABLE). */
int is_copied_by_fork(struct maps *maps)
{
	static const char *const special[] = {" dc ", " wf ", " dp ", NULL};
	const char *const *flag, *line;

	while ((line = next_line(maps)))
		if (!strncmp(line, "VmFlags:", 8)) {
			for (flag = special; *flag; flag++)
				if (strstr(line, *flag))
					return 0;
			return 1;
		}
	return 0;
}

long read_page_map(int pagemap, uintptr_t start, uintptr_t end, uint64_t *entries)
{
	uintptr_t page = sysconf(_SC_PAGESIZE), left = (end - start) / page;
	size_t count = left < ENTRIES ? left : ENTRIES;
	ssize_t got = pread(pagemap, entries, count * sizeof *entries, start / page * sizeof *entries);

	return got > 0 ? got / (ssize_t)sizeof *entries : 0;
}
