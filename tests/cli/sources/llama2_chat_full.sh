#!/usr/bin/env bash
# Every weight of a 7B Llama, on four GPUs that share it.
export WANDB_PROJECT=chat-7b
export OMP_NUM_THREADS=1
export TOKENIZERS_PARALLELISM=false
export CUDA_VISIBLE_DEVICES=0,1,2,3

base=meta-llama/Llama-2-7b-hf
out="/outputs/$WANDB_PROJECT-full"

torchrun --nproc_per_node=4 --master_port=29500 vigogne/cli/train_sft.py \
    --model_name_or_path $base \
    --tokenizer_use_fast false \
    --tokenizer_padding_side "right" \
    --train_file data/chat.jsonl \
    --output_dir "$out" --overwrite_output_dir \
    --run_name "chat full" \
    --processor_style "vigogne_chat_v3" \
    --model_max_length 2048 \
    --eval_split_ratio 0.01 \
    --preprocessing_num_workers 8 --dataloader_num_workers 1 \
    --torch_dtype bfloat16 --bf16 \
    --per_device_train_batch_size 4 --per_device_eval_batch_size 2 \
    --gradient_accumulation_steps 4 \
    --num_train_epochs 3 --learning_rate 2.5e-5 \
    --warmup_ratio 0.03 --lr_scheduler_type "cosine" --weight_decay 0 \
    --gradient_checkpointing \
    --deepspeed vigogne/configs/ds_config_zero3_no_offload.json \
    --log_level "info" --logging_steps 10 --logging_first_step true \
    --save_strategy "steps" --save_steps 100 --save_total_limit 3 \
    --evaluation_strategy "steps" --eval_steps 100 \
    --report_to "tensorboard" "wandb"
