/* What the calling process is, as two texts of lines: the key and the state. */

#ifndef PYRUNC_DESCRIPTION_H
#define PYRUNC_DESCRIPTION_H

#include "text.h"

/* The key: what a fork cannot change to, of the process and of its code.  `self` is the launcher's
 * path, `conf` the text of its file.  NULL, or the reason why there can be no zygote for it. */
const char *make_key(struct text *key, const char *self, const char *conf);

/* The first part of a key: all that /proc tells of a process, which `proc` names: "/proc/self".
 * NULL, or the reason why there is no key. */
const char *describe_process(struct text *key, const char *proc);

/* The state: what a fork can change to, one attribute a line; attributes.py reads it.  0 = it cannot
 * be read. */
int make_state(struct text *state);

#endif
