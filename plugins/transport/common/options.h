/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the options that every transport has: limits of who may come, of time, and of memory. A transport's settings
 * begin with TR_SETTINGS, and its rows of options hold TR_OPTIONS with the struct's name. */
#ifndef TRANSPORT_OPTIONS_H
#define TRANSPORT_OPTIONS_H
#include "zarya/zarya.h"

#define TR_SETTINGS                                                                                                            \
    struct zr_list listen, serves;                                                                                             \
    int64_t idle_timeout, drain_timeout, max_connections, max_per_address, accept_rate;                                        \
    int64_t read_buffer, input_memory, output_high, output_low, output_limit, output_memory

#define TR_OPTIONS(S)                                                                                                          \
    ZR_OPTION_ROW(S, idle_timeout, "idle_timeout", ZR_OPT_I64, 0, "120 s", "100", "2000000000", "ms",                          \
        "A connection on which nothing was read or written for so long is closed."),                                           \
    ZR_OPTION_ROW(S, drain_timeout, "drain_timeout", ZR_OPT_I64, 0, "5 s", "1", "3600000", "ms",                               \
        "How long a connection that ends may take for the output queued on it."),                                              \
    ZR_OPTION_ROW(S, max_connections, "max_connections", ZR_OPT_I64, 0, "0", "0", "10000000", NULL,                            \
        "Accepted connections at most; 0: what the limit of open files allows."),                                              \
    ZR_OPTION_ROW(S, max_per_address, "max_per_address", ZR_OPT_I64, 0, "0", "0", "10000000", NULL,                            \
        "Connections from one IP address at most (the proxy's address when there is one); 0: no limit."),                      \
    ZR_OPTION_ROW(S, accept_rate, "accept_rate", ZR_OPT_I64, 0, "0", "0", "1000000", NULL,                                     \
        "New connections in a second at most, the others wait; 0: no limit."),                                                 \
    ZR_OPTION_ROW(S, read_buffer, "read_buffer", ZR_OPT_I64, 0, "64 KiB", "16 KiB", "1 MiB", "bytes",                          \
        "Bytes read at once from a connection that is busy."),                                                                 \
    ZR_OPTION_ROW(S, input_memory, "input_memory", ZR_OPT_I64, 0, "512 MiB", "64 MiB", NULL, "bytes",                          \
        "Memory for incomplete frames of all connections; beyond it, connections whose frame needs more are closed."),         \
    ZR_OPTION_ROW(S, output_high, "output_high", ZR_OPT_I64, 0, "256 KiB", "4 KiB", "1 GiB", "bytes",                          \
        "A connection with more output queued is not read from."),                                                             \
    ZR_OPTION_ROW(S, output_low, "output_low", ZR_OPT_I64, 0, "128 KiB", "0", "1 GiB", "bytes",                                \
        "It is read from again when so little is queued."),                                                                    \
    ZR_OPTION_ROW(S, output_limit, "output_limit", ZR_OPT_I64, 0, "16 MiB", "64 KiB", "4 GiB", "bytes",                        \
        "A connection with more output queued in memory when the next answer comes is closed; of files, 16 times as much."),   \
    ZR_OPTION_ROW(S, output_memory, "output_memory", ZR_OPT_I64, 0, "512 MiB", "16 MiB", NULL, "bytes",                        \
        "Memory for queued output of all connections; beyond it, a connection above output_high is closed at its next answer.")
#endif
