"""PyTorch's DistributedDataParallel over gloo on two cores, or one process: the tutorial's model, tokens a second.

usage: python ddp_peer.py FOLDER-OF-torch_baseline.py RANKS BATCH STEPS bf16|f32 (with tcmalloc preloaded, as the other peers)
"""
import contextlib, json, os, resource, socket, sys, time
import torch, torch.distributed as dist, torch.multiprocessing as mp
sys.path.insert(0, sys.argv[1])
import torch_baseline as tb
def work(rank, ranks, batch, steps, precision, port):
    threads = max(1, 2//ranks)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if ranks>1:
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        dist.init_process_group('gloo', rank=rank, world_size=ranks)
    s=tb.SHAPES['naacl2019']; model=tb.LanguageModel(s,0.1,0.1)
    run=torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True) if ranks>1 else model
    opt=torch.optim.Adam(model.parameters(), lr=2.5e-4, fused=True)
    per=batch//ranks
    torch.manual_seed(rank)
    ids=torch.randint(0,s['vocab'],(per,s['positions']))
    cast=(lambda: torch.autocast('cpu',dtype=torch.bfloat16)) if precision=='bf16' else contextlib.nullcontext
    times=[]
    # micro-batches of 8 sequences at most, as memory and speed want it
    micro=[ids[i:i+8] for i in range(0,per,8)]
    for i in range(steps+2):
        t=time.perf_counter()
        for j,part in enumerate(micro):
            sync = run.no_sync() if ranks>1 and j+1<len(micro) else contextlib.nullcontext()
            with sync:
                with cast(): loss=run(part,part)
                (loss/len(micro)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(),0.25)
        opt.step(); opt.zero_grad()
        if i>=2: times.append(time.perf_counter()-t)
    if rank==0:
        m=sorted(times)[len(times)//2]
        print(json.dumps(dict(peer='torch', ranks=ranks, batch=batch, precision=precision, tokens_per_s=batch*256/m, s=m, mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)), flush=True)
    if ranks>1: dist.destroy_process_group()
if __name__=='__main__':
    ranks,batch,steps=map(int,sys.argv[2:5]); precision=sys.argv[5]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port=free.getsockname()[1]
    if ranks==1: work(0,1,batch,steps,precision,port)
    else: mp.spawn(work,(ranks,batch,steps,precision,port),nprocs=ranks)
