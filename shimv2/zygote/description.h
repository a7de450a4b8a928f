/* Describes a process as two texts of lines: the key and the state. */

#ifndef PYRUNC_DESCRIPTION_H
#define PYRUNC_DESCRIPTION_H

#include "text.h"

/* The key: the attributes of the process and of its code that a fork cannot change to.  `self` is the
 * launcher's path, `conf` the text of its conf file.  Returns NULL, or why there can be no zygote. */
const char *make_key(struct text *key, const char *self, const char *conf);

/* The first part of a key: the attributes in /proc.  `proc` is the folder of the process, such as
 * "/proc/self".  Returns NULL, or why there is no key. */
const char *describe_process(struct text *key, const char *proc);

/* The state: the attributes that a fork can change to, one in a line; attributes.py reads it.  Returns 0
 * if the state cannot be read. */
int make_state(struct text *state);

#endif
