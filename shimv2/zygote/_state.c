/* Whether a spare is like its launcher already, by the launcher's own words: the ordinary case, which
 * then costs a few system calls and nothing of the interpreter (zygote/attributes.py). */

#include "description.h"
#include "text.h"

#include <stdlib.h>
#include <string.h>

__attribute__((visibility("default"))) int pyrunc_is_like_1(const char *state, long size)
{
	struct text ours = {0};
	int same = make_state(&ours) && ours.used == (size_t)size && !memcmp(ours.data, state, size);

	free(ours.data);
	return same;
}
