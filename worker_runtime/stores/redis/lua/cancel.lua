-- Cancel a job: end it where nobody runs it, else leave an order for the worker that does.
--
-- ARGV: id, now (ms), result, its time to live (ms, 0 for ever), queue...
-- Returns 'ended' (it never runs), 'told', 'late' (it had ended) or 'unknown'.
local id, now = ARGV[1], ARGV[2]
if redis.call('EXISTS', 'arq:result:' .. id) == 1 then
  return 'late'
end
for i = 5, #ARGV do
  if redis.call('ZSCORE', ARGV[i], id) then
    if redis.call('EXISTS', 'arq:in-progress:' .. id) == 1 then
      redis.call('ZADD', 'arq:abort', now, id)
      redis.call('PUBLISH', 'worker-runtime:wake:' .. ARGV[i], 'abort')
      return 'told'
    end
    redis.call('DEL', 'arq:job:' .. id, 'arq:retry:' .. id, 'worker-runtime:begun:' .. id)
    redis.call('ZREM', ARGV[i], id)
    redis.call('ZREM', 'arq:abort', id)
    if ARGV[4] == '0' then
      redis.call('SET', 'arq:result:' .. id, ARGV[3])
    else
      redis.call('SET', 'arq:result:' .. id, ARGV[3], 'PX', ARGV[4])
    end
    return 'ended'
  end
end
return 'unknown'
