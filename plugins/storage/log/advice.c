/* SPDX-License-Identifier: Apache-2.0 */
/* advice.c - what the disk is told before a record is read that is not in memory: with read-ahead (the default) the 256 KiB from it on,
 * for a consumer that catches up; without it the record alone, and the file's own read-ahead is switched off, for readers that
 * jump. Changed at any moment by zs_read_ahead (RocketMQ's SET_COMMITLOG_READ_MODE); what is read next goes by it. */
#include "zs_int.h"

#define AHEAD (256u << 10)

zr_status zs_read_ahead(struct zr_inst *st, uint32_t on)
{
    __atomic_store_n(&st->conf.read_ahead, on ? ZS_AHEAD_AGAIN : ZS_AHEAD_OFF, __ATOMIC_RELAXED);
    return ZR_OK;
}

void zs_advise(struct zr_inst *st, int32_t fd, int64_t off, uint64_t size)
{
    uint32_t how = __atomic_load_n(&st->conf.read_ahead, __ATOMIC_RELAXED);
    if (how != ZS_AHEAD_ON) st->io->advise(st->io->ctx, fd, NULL, 0, 0, how == ZS_AHEAD_OFF ? ZR_IO_ADVISE_RANDOM : ZR_IO_ADVISE_NORMAL);
    st->io->advise(st->io->ctx, fd, NULL, off, how == ZS_AHEAD_OFF || size > AHEAD ? size : AHEAD, ZR_IO_ADVISE_WILLNEED);
}
