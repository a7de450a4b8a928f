/* Comparisons for the waiting child.  It describes a process with the same code as the launcher and
 * compares the bytes.  So the usual case costs a few system calls and no Python code. */

#include "description.h"
#include "text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

/* Whether this process already has the launcher's state. */
EXPORTED int pyrunc_is_like_1(const char *state, long size)
{
	struct text ours = {0};
	int same = make_state(&ours) && ours.used == (size_t)size && !memcmp(ours.data, state, size);

	free(ours.data);
	return same;
}

/* Whether the attributes of process `pid` in /proc are equal to the first part of a key. */
EXPORTED int pyrunc_is_key_of_1(const char *key, long size, int pid)
{
	struct text found = {0};
	char proc[32];
	int same;

	snprintf(proc, sizeof proc, "/proc/%d", pid);
	same = !describe_process(&found, proc) && found.used <= (size_t)size &&
	       !memcmp(found.data, key, found.used);
	free(found.data);
	return same;
}
