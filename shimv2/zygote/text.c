#define _GNU_SOURCE
#include "text.h"

#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void append(struct text *t, const void *data, size_t size)
{
	if (t->used + size > t->room) {
		size_t room = (t->used + size) * 2;
		char *grown = realloc(t->data, room);

		if (!grown) {
			t->failed = 1;
			return;
		}
		t->data = grown;
		t->room = room;
	}
	memcpy(t->data + t->used, data, size);
	t->used += size;
}

void line(struct text *t, const char *format, ...)
{
	char buffer[PATH_MAX + 256];
	va_list args;
	int size;

	va_start(args, format);
	size = vsnprintf(buffer, sizeof buffer, format, args);
	va_end(args);
	if (size < 0 || (size_t)size >= sizeof buffer)
		t->failed = 1;
	else
		append(t, buffer, size);
}

ssize_t content(const char *path, char *buffer, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t got = -1;

	if (fd < 0)
		return -1;
	while (used < room - 1 && (got = read(fd, buffer + used, room - 1 - used)) > 0)
		used += got;
	close(fd);
	buffer[used] = 0;
	return got < 0 ? -1 : (ssize_t)used;
}

void section(struct text *body, const void *data, size_t size)
{
	uint32_t length = size;

	append(body, &length, sizeof length);
	append(body, data, size);
}
