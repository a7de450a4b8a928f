/* What the calling process is like: for a zygote to be so, or to be told that it cannot. */

#ifndef PYRUNC_DESCRIPTION_H
#define PYRUNC_DESCRIPTION_H

#include "text.h"

/* What a fork cannot get back, of the process and its code: `self` is the launcher's path, `conf` the
 * text of its file.  0 when there can be no zygote for it. */
int make_key(struct text *key, const char *self, const char *conf);

/* What a fork can make its own, a line an attribute; read by zygote/attributes.py.  0 = it cannot be told. */
int make_state(struct text *state);

#endif
