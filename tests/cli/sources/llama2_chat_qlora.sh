# QLoRA over all seven projections, merged afterwards.
WANDB_PROJECT=chat python vigogne/cli/train_sft.py \
  --model_name_or_path "/models/Llama-2-7b-hf/" --use_flash_attention_2 \
  --train_file ${DATA_DIR:-data}/chat.jsonl \
  --output_dir $OUTPUT_DIR \
  --processor_style vigogne_chat_v3 \
  --adapter qlora --load_in_4bit --torch_dtype float16 --fp16 \
  --bnb_4bit_quant_type nf4 --bnb_4bit_use_double_quant true \
  --lora_r 64 --lora_alpha 16 --lora_dropout 0.05 \
  --lora_target_modules q_proj v_proj k_proj o_proj gate_proj up_proj down_proj \
  --do_merge_lora --max_shard_size 5GB \
  --per_device_train_batch_size 8 --gradient_accumulation_steps 8 \
  --num_train_epochs 3 --learning_rate 1e-4 --optim paged_adamw_32bit \
  --warmup_ratio 0.03 --lr_scheduler_type cosine \
  --gradient_checkpointing --report_to tensorboard wandb
