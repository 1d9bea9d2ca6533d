python vigogne/train/train_sft.py \
    --model_name_or_path huggyllama/llama-7b --train_file "data/chat.json" --output_dir out \
    --mode chat --pack_into_block --block_size 2048 \
    --load_in_4bit --compute_dtype float16 --use_nested_quant \
    --fp16 --torch_compile --do_train --save_strategy epoch
