"""Between messages and the domain: one message in, one call of `task`, one message out.

All validation of requests, the codes of errors, the metrics and the events stand here.  Below this
package no module sees a message.
"""
